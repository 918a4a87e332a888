"""A mode of confidentiality with a second phase in which every site says yes; otherwise it is `plain`."""

from dataclasses import replace

from fedllm.confidentiality.mode import Phase, RoundView, SiteObject
from fedllm.confidentiality.plain import PLAIN
from fedllm.errors import RefusedError
from fedllm.protocol.messages import Plan, Reply

AGREE = "agree"


class _Site(type(PLAIN.site)):  # type: ignore[misc]  # the class of a mode's half is its own business
    def reply(self, plan: Plan, phase: str, query: str) -> str:
        if (phase, query) != (AGREE, f"round {plan.round}?"):
            raise RefusedError(f"{query!r} is no question of phase {phase}")
        return "yes"


class SilentSite(_Site):
    """Takes every query for one that no honest coordinator makes."""

    def reply(self, plan: Plan, phase: str, query: str) -> str:
        del plan, query
        raise RefusedError(f"nobody is asked anything in phase {phase}")


class _Coordinator(type(PLAIN.coordinator)):  # type: ignore[misc]  # as above
    def query(self, view: RoundView, phase: str, site: str) -> str:
        del phase, site
        return f"round {view.plan.round}?"


TWO_PHASES = replace(
    PLAIN,
    name="two-phases",
    who_sees="as plain",
    phases=(*PLAIN.phases, Phase(AGREE, (SiteObject(f"{AGREE}.json", lambda _plan: Reply.largest),))),
    site=_Site(),
    coordinator=_Coordinator(),
)

"""Which schedules a federation has a use for, and their resuming."""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fedllm.config import FederationConfig
from fedllm.coordinator.origin import members_by_origin
from fedllm.journal.journal import Journal
from fedllm.stack.health import PrefectApi

_WHEN = {"nightly": "every night at 02:00 UTC", "weekly": "every Sunday at 04:00 UTC"}
_WHEN |= {"minutely": "every minute", "every-five-minutes": "every five minutes"}


@dataclass(frozen=True)
class Scheduled:
    """A deployment with a schedule, and whether it runs by itself now."""

    deployment: str  # flow/name
    when: str
    active: bool
    why_not: str | None  # None: the federation has a use for it


def resume_fitting(api: PrefectApi, config: FederationConfig, names: Iterable[str]) -> list[Scheduled]:
    """Resume what fits the federation, and leave the other schedules as they are.

    Args:
        api: the Prefect that holds the deployments.
        config: the federation.
        names: its deployments, as `flow/name`.

    Raises:
        StackError: Prefect refused, or does not answer.
    """
    there, real = api.deployments(), _real_members(config)
    found = []
    for name in names:
        entry = there[name]
        why = why_not(name.partition("/")[0], config, real) if entry["schedules"] else None
        if why is None and entry.get("paused"):
            api.call(f"/deployments/{entry['id']}/resume_deployment", {})
        for schedule in entry["schedules"]:
            if why is None and not schedule["active"]:
                api.set_schedule(entry["id"], schedule["id"], active=True)
            slug = schedule.get("slug") or "as its page says"
            active = why is None or (schedule["active"] and not entry.get("paused"))
            found.append(Scheduled(name, _WHEN.get(slug, slug), active, why))
    return found


def why_not(flow: str, config: FederationConfig, real: int) -> str | None:
    """Why a federation has no use for the schedule of a flow; None when it has.

    Args:
        flow: its name.
        config: the federation.
        real: how many real sites have joined.
    """
    simulated = config.simulation is not None
    if flow == "federated-training":
        return _no_training(config, real)
    if flow == "privacy-audit" and not config.privacy.on and not simulated:
        return "no privacy is configured, so the sites keep no ledgers"
    if flow == "site-watch" and simulated:
        return "simulated sites are there only while they train"
    if flow == "site-watch" and real == 0:
        return "no site has joined: add them with `fedllm site add`, then deploy again"
    return None


def _no_training(config: FederationConfig, real: int) -> str | None:
    simulation, least = config.simulation, config.rounds.min_sites
    if simulation is not None:
        count, what = len(simulation.names), "simulated"
    else:
        count, what = real, "in the roster"
    if count < least:
        return f"{count} sites are {what} and rounds.min_sites is {least}: a training would fail"
    if simulation is None and not Path(config.evaluation.public).is_file():
        return f"evaluation.public: there is no file {config.evaluation.public}"
    return None


def _real_members(config: FederationConfig) -> int:
    if config.simulation is not None:
        return 0  # of no account, and deploying beside real members is refused
    with closing(Journal(config.name)) as journal:
        return len(members_by_origin(journal)["real"])

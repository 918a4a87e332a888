"""Prefect's automations for trainings: a crashed one is resumed once, a vanished one is marked crashed."""

from typing import Any

from fedllm.stack.definition import TAG, automation
from fedllm.stack.health import PrefectApi
from fedllm.stack.reactions import REACTIONS, reaction_name, reactions

__all__ = ("FLOWS", "HEARTBEAT", "SILENCE", "TAG", "ZOMBIE", "definitions", "register_automations")

FLOWS = ("federated-training", "federated-round")
ZOMBIE = "fedllm: mark a training that vanished as crashed"
ONCE = "fedllm: let a crashed training be resumed once"
RESUME = "fedllm: resume it"
GIVE_UP = "fedllm: leave a second crash to a person"

HEARTBEAT = "prefect.flow-run.heartbeat"  # Prefect's own name for it
SILENCE = 90.0  # s without a heartbeat (there is one every 10 s) until a run is held to be gone
# A worker reports a process' crash twice, the second time after the flow's hooks, whose first import may be
# slow (6 to 13 s later here). Were the run scheduled again by then, the second report would count as a
# second crash.
PAUSE = 60.0  # s from a crash to the resume

_EVER = 10 * 365 * 24 * 3600.0  # s; a trigger fires once in its period and run, and these are to fire once
_AWAITING = "AwaitingResume"
_OVER = ["Completed", "Failed", "Cancelled", "Crashed"]
_OURS = {"prefect.resource.role": "flow", "prefect.resource.name": list(FLOWS)}
_DEPLOYED = [_OURS, {"prefect.resource.id": f"prefect.tag.{TAG}"}]
_RESUME_IT = "`fedllm run FILE --resume RUN`; RUN is in this run's log"


def definitions(silence: float = SILENCE, pause: float = PAUSE) -> list[dict[str, Any]]:
    """The automations as Prefect's API takes them; `silence` and `pause` in s, 10 at least."""
    crashed = {"expect": _states("Crashed"), "posture": "Reactive", "within": _EVER}
    return [
        _automation(
            ZOMBIE,
            "Marks a run as crashed that ended without a word, such as one that was killed with its worker.",
            {
                "after": [HEARTBEAT],
                "expect": [HEARTBEAT, *_states(*_OVER)],
                "match_related": [_OURS],
                "posture": "Proactive",
                "within": silence,
            },
            {
                "state": "CRASHED",
                "message": f"No sign of life for {silence:.0f} s: its process is gone. "
                f"Go on with {_RESUME_IT}.",
            },
        ),
        _automation(
            ONCE,
            "The first crash of a deployment's run makes it wait for its resume.",
            {**crashed, "match_related": _DEPLOYED},
            {
                "state": "CRASHED",
                "name": _AWAITING,
                "force": True,  # it is crashed already: this replaces name and message
                "message": f"Crashed; goes on by itself in {pause:.0f} s, once.",
            },
        ),
        _automation(
            RESUME,
            "Schedules the run again, unless a person does: it goes on where it stopped.",
            {
                "after": _states(_AWAITING),
                "expect": _states("Scheduled", "AwaitingRetry", "Pending", "Running", *_OVER),
                "match_related": _DEPLOYED,
                "posture": "Proactive",
                "within": pause,
            },
            {"state": "SCHEDULED", "name": "AwaitingRetry", "message": "Resumed by itself after a crash."},
        ),
        _automation(
            GIVE_UP,
            "Says how to go on with a run that crashed again.",
            # Not "two crashes", for Prefect may count one event twice; one older than `after` counts not.
            {**crashed, "after": _states(_AWAITING), "match_related": _DEPLOYED},
            {
                "state": "CRASHED",
                "force": True,
                "message": "Crashed again after it was resumed, and is not resumed by itself any more. "
                f"Go on with Retry here, or with {_RESUME_IT}.",
            },
        ),
    ]


def _states(*names: str) -> list[str]:
    """The events that tell of a flow run's states."""
    return [f"prefect.flow-run.{name}" for name in names]


def _automation(name: str, purpose: str, trigger: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    return automation(name, purpose, trigger, [{"type": "change-flow-run-state", **change}])


def register_automations(
    api: PrefectApi, silence: float = SILENCE, pause: float = PAUSE, federation: str | None = None
) -> list[str]:
    """Register the automations that are absent, and renew those of another fedllm; say which.

    One that is there stays as its owner left it: paused if he paused it, and with his changes unless its
    definition here has changed since.

    Args:
        api: the Prefect to register with.
        silence: s without a heartbeat until a run is held to be gone; above two heartbeats.
        pause: s from a crash to the resume.
        federation: whose deployments are registered: its events are answered as well.

    Raises:
        StackError: Prefect refused, or does not answer.
    """
    bodies = definitions(silence, pause)
    if federation is not None:
        former = _take_former(api, federation)
        bodies += [
            {**body, "enabled": former.get(body["name"], body["enabled"])}
            for body in reactions(federation, api.deployments())
        ]
    wanted = {body["name"]: body for body in bodies}
    found = api.call("/automations/filter", {"automations": {"name": {"any_": list(wanted)}}})
    there = {entry["name"]: entry for entry in found}
    changed = []
    for name, body in wanted.items():
        known = there.get(name)
        if known is None:
            api.call("/automations/", body)
        elif known["description"] != body["description"]:
            api.call(f"/automations/{known['id']}", {**body, "enabled": known["enabled"]}, method="PUT")
        else:
            continue
        changed.append(name)
    return changed


def forget_reactions(api: PrefectApi, federation: str) -> None:
    """Remove the automations of a federation whose deployments are gone."""
    names = [reaction_name(reaction, federation) for reaction in REACTIONS]
    for entry in api.call("/automations/filter", {"automations": {"name": {"any_": names}}}):
        api.call(f"/automations/{entry['id']}", method="DELETE")


def _take_former(api: PrefectApi, federation: str) -> dict[str, bool]:
    """Remove the federation's automations of before they had its name; which were on, by their new name."""
    found = api.call("/automations/filter", {"automations": {"name": {"any_": list(REACTIONS)}}})
    resource = f"fedllm.federation.{federation}"
    mine = [entry for entry in found if entry["trigger"]["match"].get("prefect.resource.id") == resource]
    for entry in mine:
        api.call(f"/automations/{entry['id']}", method="DELETE")
    return {reaction_name(entry["name"], federation): bool(entry["enabled"]) for entry in mine}

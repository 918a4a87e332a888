"""Prefect automations for trainings: resume a crashed run once, and mark a vanished run as crashed."""

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

HEARTBEAT = "prefect.flow-run.heartbeat"  # Prefect's name for the event
SILENCE = 90.0  # s without a heartbeat (sent every 10 s) until a run counts as vanished
# A worker reports a process' crash twice, the second time after the flow's hooks, whose first import may be
# slow (6 to 13 s later here). If the run were scheduled again by then, the second report would count as a
# second crash.
PAUSE = 60.0  # s from a crash to the resume

_EVER = 10 * 365 * 24 * 3600.0  # s; a trigger fires once per period and run, and these must fire only once
_AWAITING = "AwaitingResume"
_OVER = ["Completed", "Failed", "Cancelled", "Crashed"]
_OURS = {"prefect.resource.role": "flow", "prefect.resource.name": list(FLOWS)}
_DEPLOYED = [_OURS, {"prefect.resource.id": f"prefect.tag.{TAG}"}]
_RESUME_IT = "`fedllm run FILE --resume RUN`; RUN is in this run's log"


def definitions(silence: float = SILENCE, pause: float = PAUSE) -> list[dict[str, Any]]:
    """Return the automations as Prefect's API takes them; `silence` and `pause` in s, at least 10."""
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
                "force": True,  # the run is already crashed: this replaces name and message
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
            # Not "two crashes", since Prefect may count one event twice; events before `after` do not count.
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
    """Return the names of the events of a flow run's states."""
    return [f"prefect.flow-run.{name}" for name in names]


def _automation(name: str, purpose: str, trigger: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    return automation(name, purpose, trigger, [{"type": "change-flow-run-state", **change}])


def register_automations(
    api: PrefectApi, silence: float = SILENCE, pause: float = PAUSE, federation: str | None = None
) -> list[str]:
    """Register missing automations, replace those with another definition, and return their names.

    An unchanged definition keeps its owner's changes; a paused automation stays paused in any case.

    Args:
        api: the Prefect to register with.
        silence: s without a heartbeat until a run counts as vanished; above two heartbeats.
        pause: s from a crash to the resume.
        federation: also register the reactions to this federation's events.

    Raises:
        StackError: Prefect refused, or does not answer.
    """
    bodies = definitions(silence, pause)
    if federation is not None:
        former = _remove_former(api, federation)
        bodies += [
            {**body, "enabled": former.get(body["name"], body["enabled"])}
            for body in reactions(federation, api.deployments())
        ]
    wanted = {body["name"]: body for body in bodies}
    entries = api.call("/automations/filter", {"automations": {"name": {"any_": list(wanted)}}})
    registered = {entry["name"]: entry for entry in entries}
    changed = []
    for name, body in wanted.items():
        entry = registered.get(name)
        if entry is None:
            api.call("/automations/", body)
        elif entry["description"] != body["description"]:
            api.call(f"/automations/{entry['id']}", {**body, "enabled": entry["enabled"]}, method="PUT")
        else:
            continue
        changed.append(name)
    return changed


def remove_reactions(api: PrefectApi, federation: str) -> None:
    """Remove the automations of a federation whose deployments are gone."""
    names = [reaction_name(reaction, federation) for reaction in REACTIONS]
    for entry in api.call("/automations/filter", {"automations": {"name": {"any_": names}}}):
        api.call(f"/automations/{entry['id']}", method="DELETE")


def _remove_former(api: PrefectApi, federation: str) -> dict[str, bool]:
    """Remove the automations of older versions, named without the federation; return {new name: enabled}."""
    entries = api.call("/automations/filter", {"automations": {"name": {"any_": list(REACTIONS)}}})
    resource = f"fedllm.federation.{federation}"
    former = [entry for entry in entries if entry["trigger"]["match"].get("prefect.resource.id") == resource]
    for entry in former:
        api.call(f"/automations/{entry['id']}", method="DELETE")
    return {reaction_name(entry["name"], federation): bool(entry["enabled"]) for entry in former}

"""Prefect's automations for trainings: a crashed one is resumed once, a vanished one is marked crashed."""

import hashlib
import json
import os
from typing import Any

from fedllm.errors import ConfigError
from fedllm.stack.health import PrefectApi

FLOWS = ("federated-training", "federated-round")
TAG = "fedllm"  # of the deployments, and so of their runs
RESUME = "fedllm: resume a crashed training once"
GIVE_UP = "fedllm: a second crash is left to a person"
ZOMBIE = "fedllm: mark a training that vanished as crashed"

HEARTBEAT = "prefect.flow-run.heartbeat"  # Prefect's own name: its long interval and ours add up
SILENCE = 90.0  # s without a heartbeat (there is one every 10 s) until a run is held to be gone
LEAST_SILENCE = 20.0  # s; below it a heartbeat that is late would look like a death
_EVER = 10 * 365 * 24 * 3600.0  # s; a trigger fires once in its period, and this one is to fire once
_OVER = [f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")]
_OURS = {"prefect.resource.role": "flow", "prefect.resource.name": list(FLOWS)}


def silence() -> float:
    """After how many seconds without a heartbeat a run is held to be gone: `FEDLLM_ZOMBIE_SECONDS`, or 90.

    Raises:
        ConfigError: it is no number, or shorter than heartbeats can be told from silence.
    """
    given = os.environ.get("FEDLLM_ZOMBIE_SECONDS", "")
    try:
        seconds = float(given) if given else SILENCE
    except ValueError:
        seconds = 0.0
    if not LEAST_SILENCE <= seconds <= _EVER:
        raise ConfigError(f"FEDLLM_ZOMBIE_SECONDS is {given!r}: give seconds, {LEAST_SILENCE:.0f} at least")
    return seconds


def definitions() -> list[dict[str, Any]]:
    """The automations, as Prefect's API takes them. Raises `ConfigError` as `silence` does."""
    deployed = [_OURS, {"prefect.resource.id": f"prefect.tag.{TAG}"}]
    crashed = {"expect": ["prefect.flow-run.Crashed"], "posture": "Reactive", "within": _EVER}
    quiet = silence()
    return [
        _automation(
            RESUME,
            "Schedules a crashed run of a deployment again, once a run: it goes on where it stopped.",
            {**crashed, "match_related": deployed, "threshold": 1},
            {"state": "SCHEDULED", "name": "AwaitingRetry", "message": "Crashed: resumed by itself, once."},
        ),
        _automation(
            GIVE_UP,
            "Says how to go on with a run that crashed again after it was resumed.",
            {**crashed, "match_related": deployed, "threshold": 2},
            {
                "state": "CRASHED",
                "force": True,  # it is crashed already: this replaces the message
                "message": "Crashed again after it was resumed, and is not resumed by itself any more. "
                "Go on with Retry here, or with `fedllm run FILE --resume RUN`; RUN is in this run's log.",
            },
        ),
        _automation(
            ZOMBIE,
            "Marks a run as crashed that ended without a word, such as one that was killed with its worker.",
            {
                "after": [HEARTBEAT],
                "expect": [HEARTBEAT, *_OVER],
                "match_related": [_OURS],
                "posture": "Proactive",
                "threshold": 1,
                "within": quiet,
            },
            {
                "state": "CRASHED",
                "message": f"No sign of life for {quiet:.0f} s: its process is gone. "
                "Go on with `fedllm run FILE --resume RUN`; RUN is in this run's log.",
            },
        ),
    ]


def _automation(name: str, purpose: str, trigger: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {
        "name": name,
        "tags": [TAG],
        "trigger": {
            "type": "event",
            "match": {"prefect.resource.id": "prefect.flow-run.*"},
            "for_each": ["prefect.resource.id"],
            **trigger,
        },
        "actions": [{"type": "change-flow-run-state", **change}],
    }
    body["description"] = f"{purpose} Pause it to do without. [{_digest(body)}]"
    return body


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]


def register_automations(api: PrefectApi) -> list[str]:
    """Register the automations that are absent, and renew those of another fedllm; say which.

    One that is there stays as its owner left it: paused if he paused it, and untouched unless its
    definition here has changed since.

    Raises:
        ConfigError: see `silence`.
        StackError: Prefect refused, or does not answer.
    """
    wanted = {body["name"]: body for body in definitions()}
    found = api.call("/automations/filter", {"automations": {"name": {"any_": list(wanted)}}})
    there = {entry["name"]: entry for entry in found}
    changed = []
    for name, body in wanted.items():
        known = there.get(name)
        if known is None:
            api.call("/automations/", body)
        elif known["description"] != body["description"]:
            renewed = {**body, "enabled": known["enabled"]}
            api.call(f"/automations/{known['id']}", renewed, method="PUT")
        else:
            continue
        changed.append(name)
    return changed

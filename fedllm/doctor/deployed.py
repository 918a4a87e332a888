"""Check fedllm's deployments, automations and runs in Prefect."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from fedllm.doctor.finding import Finding, ok, warn
from fedllm.stack.automations import FLOWS, HEARTBEAT, SILENCE, TAG, definitions
from fedllm.stack.deploy import deployment_file, deployment_names
from fedllm.stack.health import PrefectApi
from fedllm.stack.reactions import OFF_AT_FIRST, REACTIONS, reaction_name

_DEPLOY = "`fedllm deploy --config FILE` registers them"
_MOST_RUNS = 50  # checked one by one
_LATE = timedelta(minutes=2)


def deployments(api: PrefectApi, federation: str | None = None) -> Iterator[Finding]:
    """Check that a federation's deployments of infra/prefect.yaml are registered and not paused.

    Without a federation, check the registered deployments of all federations.
    """
    registered = api.deployments()
    wanted = (
        {name for name, entry in registered.items() if TAG in entry["tags"]}
        if federation is None
        else set(deployment_names(deployment_file(), federation))
    )
    if missing := sorted(wanted - registered.keys()):
        yield warn("deployments", f"not registered: {', '.join(missing)}", _DEPLOY)
        return
    if paused := sorted(name for name in wanted if registered[name].get("paused")):
        yield warn(
            "deployments",
            f"paused as a whole, by an automation or a person: {', '.join(paused)}",
            "look at its events in Prefect, then use the switch on its page or `fedllm deploy --activate`",
        )
        return
    active = sorted(n for n in wanted if any(schedule["active"] for schedule in registered[n]["schedules"]))
    yield ok("deployments", f"{len(wanted)}, on schedule: {', '.join(active) or 'none'}")


def automations(api: PrefectApi, federation: str | None = None) -> Iterator[Finding]:
    """Check that the automations of fedllm and a federation are registered, and none is paused."""
    registered = {
        entry["name"]: entry for entry in api.call("/automations/filter", {}) if TAG in entry["tags"]
    }
    wanted = {body["name"] for body in definitions()}
    off_at_first: set[str] = set()
    if federation is not None and f"{FLOWS[0]}/{federation}" in api.deployments():
        wanted |= {reaction_name(name, federation) for name in REACTIONS}
        off_at_first = {reaction_name(name, federation) for name in OFF_AT_FIRST}
    if missing := sorted(wanted - registered.keys()):
        yield warn("automations", f"not registered: {'; '.join(missing)}", _DEPLOY)
        return
    if off := sorted(n for n in wanted if not registered[n]["enabled"] and n not in off_at_first):
        advice = "switch them on, on Prefect's page of automations"
        yield warn("automations", f"paused: {'; '.join(off)}", advice)
        return
    on = sum(registered[name]["enabled"] for name in wanted)
    yield ok("automations", f"{on} on, {len(wanted) - on} off by default")


def runs(api: PrefectApi) -> Iterator[Finding]:
    """Check for running trainings without a heartbeat, and for runs that are late to start."""
    now = datetime.now(UTC)
    flows = {"name": {"any_": list(FLOWS)}}
    running = _oldest(api, {"state": {"type": {"any_": ["RUNNING"]}}}, flows, "START_TIME_ASC")
    gone = [
        run["name"]
        for run in running
        if _before(run["start_time"], now - timedelta(seconds=SILENCE)) and not _is_alive(api, run["id"], now)
    ]
    # The server leaves out future runs: a schedule may have more of them than fit in one answer.
    due = {
        "state": {"type": {"any_": ["SCHEDULED"]}},
        "next_scheduled_start_time": {"before_": (now - _LATE).isoformat()},
    }
    late = [run["name"] for run in _oldest(api, due, {}, "NEXT_SCHEDULED_START_TIME_ASC")]
    if gone:
        remedy = "`fedllm run FILE --resume RUN`; RUN is in the run's log"
        yield warn("flow runs", f"running without a heartbeat: {', '.join(gone)}", remedy)
    elif late:
        yield warn("flow runs", f"late to start: {', '.join(late[:5])}", "see `worker` and `work pool` above")
    else:
        yield ok("flow runs", f"{len(running)} trainings under way, none left behind")


def _oldest(
    api: PrefectApi, wanted: dict[str, Any], flows: dict[str, Any], order: str
) -> list[dict[str, Any]]:
    body = {"flow_runs": wanted, "flows": flows, "limit": _MOST_RUNS, "sort": order}
    return list(api.call("/flow_runs/filter", body))


def _before(time: str | None, moment: datetime) -> bool:
    return time is not None and datetime.fromisoformat(time) < moment


def _is_alive(api: PrefectApi, run: str, now: datetime) -> bool:
    """Return whether a run has sent a recent heartbeat."""
    since, until = now - timedelta(seconds=SILENCE), now + timedelta(minutes=1)
    wanted = {
        "occurred": {"since": since.isoformat(), "until": until.isoformat()},
        "event": {"name": [HEARTBEAT]},
        "resource": {"id": [f"prefect.flow-run.{run}"]},
    }
    return bool(api.call("/events/filter", {"filter": wanted, "limit": 1})["events"])

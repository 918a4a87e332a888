"""Cancelled, crashed, vanished: what becomes of a training, its lease and its agents."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from filelock import FileLock, Timeout
from playground import SITES, SOON, TRAINING, fedllm, said

from fedllm.config import fedllm_home
from fedllm.endpoints import Endpoints
from fedllm.journal.journal import Journal
from fedllm.journal.location import coordinator_folder
from fedllm.stack.automations import (
    HEARTBEAT,
    PAUSE,
    RESUME,
    SILENCE,
    ZOMBIE,
    definitions,
    register_automations,
)
from fedllm.stack.health import PrefectApi

BRIEF = 40.0  # s of silence, four heartbeats: a run that lives on a busy machine may well take so long


@pytest.fixture(scope="module")
def api(stack: Endpoints, federation: Path) -> Iterator[PrefectApi]:
    """Prefect with the deployments, and with the automations as they come; left with them as well."""
    fedllm("deploy", "--config", str(federation))
    prefect = PrefectApi(stack.prefect_api_url)
    try:
        yield prefect
    finally:
        register_automations(prefect)


@pytest.fixture(scope="module")
def long(federation: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation whose first round takes minutes."""
    config = yaml.safe_load(federation.read_text())
    config |= {"name": "long", "local": {"lr": 0.01, "steps": 1000, "batch_size": 256}}
    path = tmp_path_factory.mktemp("long") / "federation.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def eventually(what: Callable[[], Any], seconds: float) -> Any:  # noqa: ANN401 - what was waited for
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, f"not within {seconds:.0f} s"
        time.sleep(0.1)
    return found


def ask(federation: str, query: str, *values: object) -> Any:  # noqa: ANN401 - one cell of the journal
    try:
        with closing(sqlite3.connect(coordinator_folder(federation) / "journal.db")) as db:
            row = db.execute(query, values).fetchone()
    except sqlite3.OperationalError:
        return None  # there is no journal yet
    return row[0] if row else None


def is_training(federation: str, run: str) -> bool:
    """Whether round 1 is planned, and the sites are not done with it."""
    steps = "select count(*) from outcome where run = ? and step = 'dispatch'"
    return ask(federation, steps, run) == 1 and agents(federation) == len(SITES)


def agents(federation: str) -> int:
    """How many agents of simulated sites are alive: each holds the lock of its home."""
    locks = (fedllm_home() / "simulated" / federation).glob("*/agent.lock")
    return sum(is_held(lock) for lock in locks)


def is_held(path: Path) -> bool:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def lease_is_free(federation: str) -> bool:
    return ask(federation, "select holder is null from lease") == 1


def status(federation: str, run: str) -> str:
    return str(ask(federation, "select status from run where run = ?", run))


def trigger(api: PrefectApi, config: Path) -> str:
    """Have the worker train; the flow run's id."""
    deployment = api.call("/deployments/name/federated-training/test")["id"]
    body = {"parameters": {"config_uri": str(config)}, "state": {"type": "SCHEDULED"}}
    return str(api.call(f"/deployments/{deployment}/create_flow_run", body)["id"])


def seen(api: PrefectApi, flow_run: str) -> dict[str, Any]:
    found: dict[str, Any] = api.call(f"/flow_runs/{flow_run}")
    return found


def is_state(api: PrefectApi, flow_run: str, kind: str) -> bool:
    return bool(seen(api, flow_run)["state_type"] == kind)


def set_state(api: PrefectApi, flow_run: str, kind: str) -> None:
    """As the buttons of Prefect's UI do."""
    api.call(f"/flow_runs/{flow_run}/set_state", {"state": {"type": kind}})


def run_of(federation: str, flow_run: str) -> Callable[[], Any]:
    return lambda: ask(federation, "select run from flow_run where flow_run = ?", flow_run)


def process_of(flow_run: str) -> psutil.Process | None:
    """The process of a flow run that a worker plays: the first of its group."""
    for process in psutil.process_iter():
        try:
            if (
                process.environ().get("PREFECT__FLOW_RUN_ID") == flow_run
                and os.getpgid(process.pid) == process.pid
            ):
                return process
        except (psutil.Error, OSError):
            continue
    return None


def kill(flow_run: str) -> None:
    os.kill(eventually(lambda: process_of(flow_run), SOON).pid, signal.SIGKILL)


def in_process(config: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fedllm", "run", str(config), "--json", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> str:
    """The line that a cancelled `fedllm run` ends with."""
    out, err = process.communicate(timeout=SOON)
    assert (process.returncode, out) == (1, "")
    return said(subprocess.CompletedProcess([], 1, out, err))


def test_a_crashed_training_is_resumed_once_by_itself_then_by_a_person_to_the_same_model(
    undisturbed: dict[str, Any], api: PrefectApi, federation: Path
) -> None:
    flow_run = trigger(api, federation)
    run = eventually(run_of("test", flow_run), TRAINING)
    done = "select count(*) from outcome where run = ? and round = ? and step = ?"
    eventually(lambda: ask("test", done, run, 1, "dispatch"), TRAINING)
    kill(flow_run)
    eventually(lambda: ask("test", done, run, 1, "aggregate"), PAUSE + TRAINING)
    assert seen(api, flow_run)["run_count"] == 2
    kill(flow_run)
    eventually(lambda: "--resume" in (seen(api, flow_run)["state"]["message"] or ""), SOON)
    time.sleep(PAUSE + 5)
    crashed = seen(api, flow_run)
    assert (crashed["state"]["type"], crashed["run_count"]) == ("CRASHED", 2)

    set_state(api, flow_run, "SCHEDULED")  # Retry
    eventually(lambda: is_state(api, flow_run, "COMPLETED"), TRAINING)
    assert seen(api, flow_run)["run_count"] == 3
    assert final_model("test", run) == undisturbed["model"]["sha256"]


def test_a_training_in_the_worker_ends_when_it_is_cancelled_in_prefect(api: PrefectApi, long: Path) -> None:
    flow_run = trigger(api, long)
    run = eventually(run_of("long", flow_run), TRAINING)
    eventually(lambda: is_training("long", run), TRAINING)
    set_state(api, flow_run, "CANCELLING")
    eventually(lambda: is_state(api, flow_run, "CANCELLED"), SOON)
    eventually(lambda: lease_is_free("long") and status("long", run) == "cancelled", SOON)
    eventually(lambda: agents("long") == 0 and process_of(flow_run) is None, SOON)


def test_a_training_of_this_terminal_ends_when_it_is_cancelled_in_prefect(
    api: PrefectApi, long: Path
) -> None:
    before = ask("long", "select max(started) from run") or 0.0
    process = in_process(long)
    run = eventually(lambda: ask("long", "select run from run where started > ?", before), TRAINING)
    flow_run = eventually(lambda: ask("long", "select flow_run from flow_run where run = ?", run), TRAINING)
    eventually(lambda: is_training("long", run), TRAINING)
    set_state(api, flow_run, "CANCELLING")
    line = ended(process)
    assert f"{run} was cancelled" in line
    assert f"--resume {run}" in line
    state = seen(api, flow_run)["state"]
    assert (state["type"], f"--resume {run}" in state["message"]) == ("CANCELLED", True)
    assert agents("long") == 0
    assert lease_is_free("long")
    assert status("long", run) == "cancelled"


def test_fedllm_cancel_ends_a_training_from_another_process(api: PrefectApi, long: Path) -> None:
    before = ask("long", "select max(started) from run") or 0.0
    process = in_process(long)
    run = eventually(lambda: ask("long", "select run from run where started > ?", before), TRAINING)
    eventually(lambda: is_training("long", run), TRAINING)
    flow_run = ask("long", "select flow_run from flow_run where run = ?", run)
    fedllm("cancel", run, "--config", str(long))
    assert f"{run} was cancelled" in ended(process)
    assert is_state(api, flow_run, "CANCELLED")
    assert agents("long") == 0
    assert lease_is_free("long")


def has_beaten(api: PrefectApi, flow_run: str) -> bool:
    beats = {"event": {"name": [HEARTBEAT]}, "resource": {"id": [f"prefect.flow-run.{flow_run}"]}}
    return bool(api.call("/events/filter", {"filter": beats, "limit": 1})["events"])


def is_marked(api: PrefectApi, flow_run: str) -> bool:
    """Whether Prefect found that a flow run is gone."""
    states = api.call(f"/flow_run_states/?flow_run_id={flow_run}")
    return any("No sign of life" in (state["message"] or "") for state in states)


@pytest.fixture(scope="module")
def vanished(api: PrefectApi, federation: Path) -> tuple[str, str]:
    """A flow run, and its training, whose process and worker were killed together; left to Prefect since."""
    # Before the first heartbeat: an automation that is renewed has forgotten those that came. And only until
    # the run is marked, so that its second attempt is not held to be gone as soon.
    assert register_automations(api, BRIEF) == [ZOMBIE]
    try:
        flow_run = trigger(api, federation)
        run = eventually(run_of("test", flow_run), TRAINING)
        with closing(Journal("test")) as journal:
            journal.security.record("replay", "mill", "a card older than the last", run, 1)
        victim = eventually(lambda: process_of(flow_run), SOON)
        worker = victim.parent()
        assert worker is not None
        eventually(lambda: has_beaten(api, flow_run), SOON)  # one that never beat would not be missed
        worker.suspend()  # so that it does not see how the flow run ends; supervisord starts another one
        victim.kill()
        worker.kill()
        assert is_state(api, flow_run, "RUNNING")
        eventually(lambda: is_marked(api, flow_run), BRIEF + SOON)
    finally:
        register_automations(api)
    return flow_run, run


def test_a_training_that_vanished_with_its_worker_is_marked_and_resumed_to_the_same_model(
    undisturbed: dict[str, Any], api: PrefectApi, vanished: tuple[str, str]
) -> None:
    flow_run, run = vanished
    assert is_marked(api, flow_run)
    eventually(lambda: is_state(api, flow_run, "COMPLETED"), PAUSE + TRAINING)
    assert final_model("test", run) == undisturbed["model"]["sha256"]


def test_what_was_refused_is_seen_in_prefect(api: PrefectApi, vanished: tuple[str, str]) -> None:
    flow_run, run = vanished
    eventually(lambda: is_state(api, flow_run, "COMPLETED"), PAUSE + TRAINING)
    shown = api.call("/artifacts/latest/filter", {"artifacts": {"key": {"any_": ["test-security"]}}})
    assert [run in artifact["description"] for artifact in shown] == [True]
    rows = json.loads(shown[0]["data"])
    assert [(row["kind"], row["party"], row["round"]) for row in rows] == [("replay", "mill", 1)]
    asked = {"filter": {"event": {"name": ["fedllm.security"]}}}
    told = eventually(lambda: api.call("/events/filter", asked)["events"], SOON)
    assert {event["payload"]["run"] for event in told} == {run}
    assert {event["payload"]["round"] for event in told} == {1}


def final_model(federation: str, run: str) -> str:
    query = "select body from outcome where run = ? and step = 'aggregate' order by round desc"
    sha256: str = json.loads(ask(federation, query, run))["model"]["sha256"]
    return sha256


def test_automations_stay_as_their_owner_left_them(api: PrefectApi) -> None:
    def found() -> dict[str, dict[str, Any]]:
        entries = api.call("/automations/filter", {})
        named = {entry["name"]: entry for entry in entries}
        assert len(named) == len(entries), "one is there twice"
        return named

    before = found()
    assert set(before) >= {body["name"] for body in definitions()}
    resume = f"/automations/{before[RESUME]['id']}"
    api.call(resume, {"enabled": False}, method="PATCH")
    try:
        assert register_automations(api) == []
        assert not found()[RESUME]["enabled"]
        assert register_automations(api, SILENCE + 1, PAUSE + 1)
        now = found()
        assert not now[RESUME]["enabled"]
        assert now[ZOMBIE]["enabled"]
        assert (now[ZOMBIE]["id"], now[ZOMBIE]["trigger"]["within"]) == (before[ZOMBIE]["id"], SILENCE + 1)
    finally:
        api.call(resume, {"enabled": True}, method="PATCH")

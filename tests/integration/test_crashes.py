"""kill -9 of a coordinator after (and within) each step, and of an agent: the same model in the end."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from playground import SITES, STEP, TRAINING, fedllm, said

from fedllm.config import fedllm_home, load_federation
from fedllm.data.prepare import cached_data
from fedllm.endpoints import Endpoints
from fedllm.journal.location import coordinator_folder
from fedllm.simulation import agent_processes

DRIVER = Path(__file__).with_name("killed_coordinator.py")
STEPS = ["dispatch", "remote-local-train mill", "dp-audit", "aggregate", "evaluate", "release"]


@pytest.fixture(scope="module")
def agents(federation: Path) -> Iterator[dict[str, psutil.Process]]:
    config = load_federation(federation)
    with agent_processes(config, cached_data(config)) as running:
        yield running


def journal_rows(federation: str) -> list[tuple[str, int, str]]:
    with closing(sqlite3.connect(coordinator_folder(federation) / "journal.db")) as db:
        return db.execute("select run, round, step from outcome").fetchall()


def newest_run(federation: str) -> str:
    with closing(sqlite3.connect(coordinator_folder(federation) / "journal.db")) as db:
        run: str = db.execute("select run from run order by started desc").fetchone()[0]
        return run


def wait_for(what: Any, seconds: float) -> Any:  # noqa: ANN401
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


@pytest.mark.sweep
def test_a_coordinator_killed_around_every_step_resumes_to_the_same_model(
    undisturbed: dict[str, Any],
    agents: dict[str, psutil.Process],
    federation: Path,
    stack: Endpoints,
) -> None:
    assert all(agent.is_running() for agent in agents.values())
    arguments = ["run", str(federation), "--agents", "external", "--json"]
    run: str | None = None
    for number, when in ((1, "after"), (2, "before")):
        for step in STEPS:
            resume = ["--resume", run] if run else []
            command = [sys.executable, str(DRIVER), when, str(number), step, *arguments, *resume]
            done = subprocess.run(command, capture_output=True, text=True, timeout=STEP, check=False)
            assert done.returncode == -signal.SIGKILL, f"{when} {step}: {done.stderr[-2000:]}"
            run = run or newest_run("test")
            recorded = {(n, s) for r, n, s in journal_rows("test") if r == run}
            assert ((number, step) in recorded) == (when == "after")
    assert run is not None
    told = json.loads(fedllm(*arguments, "--resume", run).stdout.splitlines()[-1])
    assert told["status"] == "completed"
    assert told["model"]["sha256"] == undisturbed["model"]["sha256"]
    assert told["by_round"] == undisturbed["by_round"]
    versions = MlflowClient(stack.mlflow_url).search_model_versions("name = 'test'")
    assert sorted(v.tags["fed.round"] for v in versions if v.tags["fed.run"] == run) == ["1", "2"]


def test_a_second_coordinator_is_refused_while_the_first_one_leads(
    undisturbed: dict[str, Any], agents: dict[str, psutil.Process], federation: Path
) -> None:
    assert undisturbed
    assert all(agent.is_running() for agent in agents.values())
    before = newest_run("test")
    arguments = ["run", str(federation), "--agents", "external", "--set", "local.steps=60", "--json"]
    first = subprocess.Popen([sys.executable, "-m", "fedllm", *arguments], stdout=subprocess.PIPE, text=True)
    try:
        run = wait_for(lambda: newest_run("test") != before and newest_run("test"), STEP)
        wait_for(lambda: (run, 1, "dispatch") in journal_rows("test"), STEP)
        # Nobody answers while the agents are held, so the first one still leads when the second comes.
        held = [psutil.Process(agent.pid) for agent in agents.values()]
        try:
            for process in held:
                process.suspend()
            second = fedllm("run", str(federation), "--agents", "external", "--resume", run, check=False)
        finally:
            for process in held:
                process.resume()
        assert second.returncode == 1
        assert f"the coordinator with process {first.pid}" in said(second)
        assert f"leads run {run}" in said(second)
        out, _ = first.communicate(timeout=TRAINING)
        assert json.loads(out.splitlines()[-1])["status"] == "completed"
    finally:
        first.kill()


def test_a_round_completes_without_an_agent_that_was_killed_in_training(
    undisturbed: dict[str, Any], agents: dict[str, psutil.Process], federation: Path
) -> None:
    assert undisturbed["status"] == "completed"
    before = newest_run("test")
    arguments = ["run", str(federation), "--agents", "external", "--json", "--set", "rounds.max=1"]
    arguments += ["--set", "rounds.deadline=90s", "--set", "local.steps=100"]
    first = subprocess.Popen([sys.executable, "-m", "fedllm", *arguments], stdout=subprocess.PIPE, text=True)
    try:
        run = wait_for(lambda: newest_run("test") != before and newest_run("test"), STEP)
        wait_for(lambda: (run, 1, "dispatch") in journal_rows("test"), STEP)
        at_work = fedllm_home() / "simulated" / "test" / "mill" / "work" / f"{run}-1.model"
        wait_for(at_work.exists, STEP)
        agents["mill"].kill()
        out, _ = first.communicate(timeout=TRAINING)
        told = json.loads(out.splitlines()[-1])
        assert (told["status"], told["rounds"]) == ("completed", 1)
        assert told["sites"]["mill"]["rounds"] == 0
        assert told["sites"]["clinic"]["rounds"] == told["sites"]["harbour"]["rounds"] == 1
    finally:
        first.kill()
    assert set(SITES) == set(told["sites"])

"""How the recovery tests disturb a stack, and what they look at: servers, journal, registry."""

import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from playground import STEP, fedllm

from fedllm.endpoints import endpoints
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.journal.location import coordinator_folder
from fedllm.stack.health import answers, health_urls
from fedllm.stack.supervise import Control

STEPS = ["dispatch", "remote-local-train", "dp-audit", "aggregate", "evaluate", "release"]
DRIVER = Path(__file__).with_name("disturbed_run.py")
AGENT = Path(__file__).with_name("disturbed_agent.py")


def wait_for(what: Callable[[], Any], seconds: float) -> Any:  # noqa: ANN401
    """What a look comes to, as soon as it comes to something."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def serves(server: str) -> bool:
    """Whether a server of the stack answers."""
    here = endpoints()
    return here is not None and answers(health_urls(here)[server])


def kill(server: str) -> None:
    """Kill -9 a server, all its processes at once; supervisord starts it again by itself."""
    wait_for(lambda: serves(server), STEP)
    pid = Control(StackPaths.here()).pids()[server]
    os.killpg(pid, signal.SIGKILL)  # supervisord makes every program the leader of a group
    wait_for(lambda: not serves(server) or Control(StackPaths.here()).pids().get(server) != pid, 60)


def stop(server: str) -> None:
    """Take a server away until `start`."""
    Control(StackPaths.here())._call("stopProcess", server)
    assert not serves(server)


def start(server: str) -> None:
    """Bring a server back, and wait until it answers."""
    Control(StackPaths.here()).start(server)
    wait_for(lambda: serves(server), STEP)


def journal(query: str, *arguments: object, federation: str = "test") -> list[Any]:
    """Rows of the coordinator's journal."""
    path = coordinator_folder(federation) / "journal.db"
    if not path.exists():
        return []
    # A connection that stays open until the collector comes by loses its locks when a test reads the file
    # itself (POSIX), and SQLite then takes a log that was deleted for the one in force.
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query, arguments).fetchall()


def newest_run(federation: str = "test") -> str | None:
    """The run that began last."""
    found = journal("select run from run order by started desc", federation=federation)
    return str(found[0][0]) if found else None


def new_run(before: str | None, seconds: float = STEP, federation: str = "test") -> str:
    """The run that began since `before` was the newest."""
    run: str = wait_for(lambda: (now := newest_run(federation)) != before and now, seconds)
    return run


def done(run: str, number: int, step: str) -> bool:
    """Whether a step is on record."""
    return bool(journal("select 1 from outcome where run=? and round=? and step=?", run, number, step))


def versions(run: str, federation: str = "test") -> list[str]:
    """Rounds that MLflow's registry has a version of, one entry a version."""
    here = endpoints()
    assert here is not None
    found = MlflowClient(here.mlflow_url).search_model_versions(f"name = '{federation}'")
    return sorted(version.tags["fed.round"] for version in found if version.tags["fed.run"] == run)


def resumed(federation: Path, run: str, *arguments: str) -> dict[str, Any]:
    """What the one command that resumes a run comes to."""
    finished = fedllm("run", str(federation), *arguments, "--resume", run, "--json")
    told: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return told


def same(told: dict[str, Any], undisturbed: dict[str, Any]) -> bool:
    """Whether a run ended in the very model that an undisturbed one ends in, by the same way."""
    assert (told["status"], told["rounds"]) == ("completed", undisturbed["rounds"])
    assert told["by_round"] == undisturbed["by_round"]
    return bool(told["model"]["sha256"] == undisturbed["model"]["sha256"])

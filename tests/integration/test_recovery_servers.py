"""Prefect, MLflow and MinIO killed or taken away in the middle of a run: the same model in the end."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from disturbed import DRIVER, STEPS, journal, resumed, same, start, versions
from playground import PATIENCE

from fedllm.config import load_federation
from fedllm.data.prepare import cached_data
from fedllm.simulation import agent_processes

Disturbance = tuple[str, int, str, str, str]


@pytest.fixture(scope="module")
def agents(undisturbed: dict[str, Any], federation: Path) -> Iterator[dict[str, psutil.Process]]:
    assert undisturbed["status"] == "completed"
    config = load_federation(federation)
    with agent_processes(config, cached_data(config)) as running:
        yield running
        assert all(agent.is_running() for agent in running.values())


def run_disturbed(federation: Path, disturbances: list[Disturbance], *more: str) -> dict[str, Any]:
    """What a run comes to that goes through all of these."""
    command = [sys.executable, str(DRIVER), json.dumps(disturbances), "run", str(federation)]
    command += ["--agents", "external", "--json", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr.count("disturbed: ") == len(disturbances)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize(
    "server", ["minio", *(pytest.param(name, marks=pytest.mark.sweep) for name in ("prefect", "mlflow"))]
)
@pytest.mark.usefixtures("agents")
def test_a_server_killed_at_every_step_changes_nothing(
    server: str, undisturbed: dict[str, Any], federation: Path
) -> None:
    # When a step's work is done and not on record yet.
    told = run_disturbed(federation, [("end", 1, step, "kill", server) for step in STEPS])
    assert same(told, undisturbed)
    start("mlflow")
    if len(versions(told["run_id"])) < 2:
        # A release that found MLflow away waits in the queue; asking for the run again sends it.
        assert server != "prefect"
        told = resumed(federation, told["run_id"], "--agents", "external")
    assert versions(told["run_id"]) == ["1", "2"]


@pytest.mark.usefixtures("agents")
def test_a_round_without_mlflow_and_a_minute_without_the_store_change_nothing(
    undisturbed: dict[str, Any], federation: Path
) -> None:
    told = run_disturbed(
        federation,
        [
            ("begin", 1, "dispatch", "stop", "mlflow"),
            ("begin", 1, "remote-local-train", "away", "minio 60"),
            ("begin", 2, "release", "start", "mlflow"),
        ],
    )
    assert told["seconds"]["total"] > 60
    assert same(told, undisturbed)
    run = told["run_id"]
    [(first,)] = journal("select body from outcome where run=? and round=1 and step='release'", run)
    assert json.loads(first)["queued"], "MLflow was down when round 1 was released"
    # Exactly once each, however often the queue is asked to empty itself.
    assert versions(run) == ["1", "2"]
    resumed(federation, run, "--agents", "external")
    assert versions(run) == ["1", "2"]

"""The Prefect worker, or the flow process that it started, killed by -9 in a triggered training."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from disturbed import done, journal, new_run, newest_run, resumed, same, versions, wait_for
from playground import STEP, TRAINING, fedllm
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State

from fedllm.endpoints import Endpoints
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.stack.supervise import Control

pytestmark = pytest.mark.usefixtures("prefect")

Trigger = Callable[[], tuple[UUID, str]]


def worker() -> psutil.Process:
    return psutil.Process(Control(StackPaths.here()).pids()["worker"])


def flow_process() -> psutil.Process:
    """What the worker started: the process of the one flow run that is under way."""
    [found] = worker().children()
    return found


def state_of(flow_run: UUID) -> State[Any]:
    with get_client(sync_client=True) as client:
        found = client.read_flow_run(flow_run).state
    assert found is not None
    return found


@pytest.fixture
def trigger(undisturbed: dict[str, Any], stack: Endpoints, federation: Path) -> Iterator[Trigger]:
    """Start a training as any Prefect client does; returns flow run and run once round 1 is under way."""
    assert undisturbed["status"] == "completed"
    assert stack.own_prefect
    fedllm("deploy", "--config", str(federation))

    def go() -> tuple[UUID, str]:
        before = newest_run()
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name("federated-training/test")
            flow_run = client.create_flow_run_from_deployment(deployment.id)
        run = new_run(before)
        wait_for(lambda: done(run, 1, "dispatch"), STEP)
        return flow_run.id, run

    yield go
    wait_for(lambda: Control(StackPaths.here()).states()["worker"] == "RUNNING", STEP)


def test_a_training_outlives_the_worker_that_started_it(
    trigger: Trigger, undisturbed: dict[str, Any], federation: Path
) -> None:
    flow_run, run = trigger()
    training = flow_process()
    first = worker()
    first.send_signal(signal.SIGKILL)
    wait_for(lambda: Control(StackPaths.here()).pids().get("worker") not in {None, first.pid}, STEP)
    wait_for(lambda: not training.is_running() or training.status() == psutil.STATUS_ZOMBIE, TRAINING)
    state = wait_for(lambda: (now := state_of(flow_run)).is_final() and now, STEP)
    assert state.is_completed(), state
    told = resumed(federation, run)  # all is done: it says what was
    assert same(told, undisturbed)
    assert versions(run) == ["1", "2"]


def test_a_killed_flow_process_is_shown_as_crashed_and_one_command_resumes_it(
    trigger: Trigger, undisturbed: dict[str, Any], federation: Path
) -> None:
    flow_run, run = trigger()
    os.kill(flow_process().pid, signal.SIGKILL)
    state = wait_for(lambda: (now := state_of(flow_run)).is_final() and now, STEP)
    assert state.is_crashed(), state
    with get_client(sync_client=True) as client:
        client.delete_flow_run(flow_run)  # a person takes over, so no automation need resume it
    assert not done(run, 2, "release")
    told = resumed(federation, run)
    assert same(told, undisturbed)
    assert versions(run) == ["1", "2"]
    assert journal("select status from run where run=?", run) == [("completed",)]

"""Names of flow runs that say what they are: the federation, and its training, version, or time."""

import time
from pathlib import Path
from uuid import UUID

from prefect import get_client
from prefect.runtime import flow_run

from fedllm.config import load_federation
from fedllm.coordinator.training import Training
from fedllm.errors import FedllmError
from flows.tasks import unless_away


def run_name() -> str:
    """`sentiment 20261130-131716-3f2a` for a run that is given, else the federation and the time, UTC."""
    run = flow_run.parameters.get("run_id") or time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    return f"{_federation()} {run}"


def review_name() -> str:
    """`sentiment version 3`, or `sentiment challenger`."""
    version = flow_run.parameters.get("version")
    return f"{_federation()} challenger" if version is None else f"{_federation()} version {version}"


def name_after(training: Training) -> None:
    """Name the flow run after the training that it plays, whose id is known once it is open."""
    played_by = training.prefect_flow_run
    if played_by is None:
        return

    def rename() -> None:
        with get_client(sync_client=True) as client:
            client.set_flow_run_name(UUID(played_by), f"{training.config.name} {training.run}")

    unless_away(rename)


def _federation() -> str:
    """The federation's name; that of its file where it cannot be read, which the flow will say."""
    file = str(flow_run.parameters.get("config_uri", ""))
    try:
        return load_federation(file).name
    except FedllmError:
        return Path(file).stem

"""Names of flow runs that say what they are: the federation, and its training, version, or time."""

import re
import time
from pathlib import Path
from uuid import UUID

from prefect import get_client
from prefect.runtime import flow_run

from fedllm.config import load_federation
from fedllm.coordinator.training import Training
from fedllm.errors import FedllmError
from fedllm.run_id import new_run_id
from flows.tasks import unless_away


def training_name() -> str:
    """`sentiment 20261130-131716-3f2a`: the run that is gone on with, or the id that a new one gets."""
    return f"{_federation()} {flow_run.parameters.get('run_id') or new_run_id()}"


def fresh_run() -> str | None:
    """The id in this flow run's name, for a new training; None in a name of another form."""
    found = re.search(r" (\d{8}-\d{6}-[0-9a-f]{4})$", flow_run.name or "")
    return found[1] if found else None


def run_name() -> str:
    """`sentiment 20261130-131716`: the federation and the time, UTC."""
    return f"{_federation()} {time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"


def review_name() -> str:
    """`sentiment version 3`, or `sentiment challenger`."""
    version = flow_run.parameters.get("version")
    return f"{_federation()} challenger" if version is None else f"{_federation()} version {version}"


def name_after(training: Training) -> None:
    """Name the flow run after the training that it plays: a retry goes on with the one of before."""
    played_by = training.prefect_flow_run
    name = f"{training.config.name} {training.run}"
    if played_by is None or flow_run.name == name:
        return

    def rename() -> None:
        with get_client(sync_client=True) as client:
            client.set_flow_run_name(UUID(played_by), name)

    unless_away(rename)


def _federation() -> str:
    """The federation's name; that of its file where it cannot be read, which the flow will say."""
    file = str(flow_run.parameters.get("config_uri", ""))
    try:
        return load_federation(file).name
    except FedllmError:
        return Path(file).stem

"""Name flow runs after the federation and its training, version, or time."""

import re
import time
from pathlib import Path
from uuid import UUID

from prefect import get_client
from prefect.runtime import flow_run

from fedllm.config import load_federation
from fedllm.coordinator.training import Training
from fedllm.errors import FedllmError
from fedllm.journal.runs import new_run_id
from flows.tasks import best_effort


def training_name() -> str:
    """Return `sentiment 20261130-131716-3f2a`: the federation, and the resumed run's id or a new one."""
    return f"{_federation()} {flow_run.parameters.get('run_id') or new_run_id()}"


def fresh_run() -> str | None:
    """Return the run id in this flow run's name, for a new training; None if the name holds none."""
    match = re.search(r" (\d{8}-\d{6}-[0-9a-f]{4})$", flow_run.name or "")
    return match[1] if match else None


def run_name() -> str:
    """Return `sentiment 20261130-131716`: the federation and the time, UTC."""
    return f"{_federation()} {time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"


def review_name() -> str:
    """Return `sentiment version 3`, or `sentiment challenger`."""
    version = flow_run.parameters.get("version")
    return f"{_federation()} challenger" if version is None else f"{_federation()} version {version}"


def rename_flow_run(training: Training) -> None:
    """Name the flow run after its training: a retry continues the earlier training."""
    flow_run_id = training.prefect_flow_run
    name = f"{training.config.name} {training.run}"
    if flow_run_id is None or flow_run.name == name:
        return

    def rename() -> None:
        with get_client(sync_client=True) as client:
            client.set_flow_run_name(UUID(flow_run_id), name)

    best_effort(rename)


def _federation() -> str:
    """Return the federation's name; its file's name if the file is invalid, which the flow then reports."""
    file = str(flow_run.parameters.get("config_uri", ""))
    try:
        return load_federation(file).name
    except FedllmError:
        return Path(file).stem

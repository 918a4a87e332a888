"""Play one round by the steps of a training: the next one of a run, or the first of a new run."""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from fedllm.config import load_federation
from fedllm.coordinator.result import result
from fedllm.errors import CancelledError
from fedllm.session import Request, session
from flows.names import fresh_run, rename_flow_run, training_name
from flows.output import log_errors_in_one_line, survive_broken_pipes
from flows.report import reported
from flows.tasks import play_as_tasks
from flows.watch import cancelled, watched


@flow(name="federated-round", flow_run_name=training_name, persist_result=False, log_prints=True)
def federated_round(
    config_uri: str = "params.yaml",
    rounds: int | None = None,
    sites: list[str] | None = None,
    run_id: str | None = None,
) -> dict[str, Any]:
    """Play the next round (or `rounds` of them) of a run, regardless of its round limit.

    Args:
        config_uri: the federation's YAML file.
        rounds: number of further rounds; default: 1.
        sites: use only these sites, instead of the whole roster.
        run_id: the run to continue; default: a new run.

    Returns:
        The `fedllm.run/1` object.

    Raises:
        CancelledError: The training was cancelled; the flow run ends as Cancelled.
    """
    survive_broken_pipes()
    log_errors_in_one_line()
    config = load_federation(config_uri)
    request = Request(
        run_id=run_id,
        fresh_id=fresh_run(),
        more=rounds or 1,
        sites=tuple(sites) if sites else None,
        projects=(Path(config_uri).resolve().parent, Path.cwd()),
        prefect_flow_run=flow_run.get_id(),
    )
    try:
        with session(config, request) as training, reported(training), watched(training):
            rename_flow_run(training)
            play_as_tasks(training, force=True)
            return result(training).public()
    except CancelledError as error:
        return cancelled(error)

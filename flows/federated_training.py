"""Play a whole federated training as one sync flow, whose tasks are named after rounds and sites."""

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


@flow(name="federated-training", flow_run_name=training_name, persist_result=False, log_prints=True)
def federated_training(
    config_uri: str = "params.yaml",
    rounds: int | None = None,
    sites: list[str] | None = None,
    run_id: str | None = None,
    allow_dirty: bool = False,
) -> dict[str, Any]:
    """Fine-tune one model over the sites of a federation.

    Args:
        config_uri: the federation's YAML file.
        rounds: largest number of rounds, instead of the file's `rounds.max`.
        sites: use only these sites, instead of the whole roster.
        run_id: resume this run where it stopped; an unknown id names a new run.
        allow_dirty: use managed data that differ from `dvc.lock`.

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
        rounds=rounds,
        sites=tuple(sites) if sites else None,
        allow_dirty=allow_dirty,
        projects=(Path(config_uri).resolve().parent, Path.cwd()),
        prefect_flow_run=flow_run.get_id(),
    )
    try:
        with session(config, request) as training, reported(training), watched(training):
            rename_flow_run(training)
            print(f"run {training.run} of {config.name}")  # noqa: T201 - log_prints makes it the flow's log
            play_as_tasks(training)
            return result(training).public()
    except CancelledError as error:
        return cancelled(error)

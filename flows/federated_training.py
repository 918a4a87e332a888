"""A whole federated training as one sync flow: rounds and sites are tasks named after them."""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from fedllm.config import load_federation
from fedllm.coordinator.result import result
from fedllm.errors import CancelledError
from fedllm.session import Request, session
from flows.output import log_errors_in_one_line, outlive_readers
from flows.report import reported
from flows.tasks import play_as_tasks
from flows.watch import cancelled, watched


@flow(name="federated-training", persist_result=False, log_prints=True)
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
        rounds: how many rounds at most, instead of the file's `rounds.max`.
        sites: ask these alone, instead of the whole roster.
        run_id: resume this run where it stopped; a new id names a new run.
        allow_dirty: use managed data that differ from `dvc.lock`.

    Returns:
        The `fedllm.run/1` object.

    Raises:
        CancelledError: the training was cancelled; the flow run ends as Cancelled.
    """
    outlive_readers()
    log_errors_in_one_line()
    config = load_federation(config_uri)
    request = Request(
        run_id=run_id,
        rounds=rounds,
        sites=tuple(sites) if sites else None,
        allow_dirty=allow_dirty,
        projects=(Path(config_uri).resolve().parent, Path.cwd()),
        prefect_flow_run=flow_run.get_id(),
    )
    try:
        with session(config, request) as training, reported(training), watched(training):
            print(f"run {training.run} of {config.name}")  # noqa: T201 - log_prints makes it the flow's log
            play_as_tasks(training)
            return result(training).public()
    except CancelledError as error:
        return cancelled(error)

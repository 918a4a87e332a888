"""Decisions that people take in MLflow's UI, carried out by a schedule of their own."""

from dataclasses import asdict
from typing import Any

from prefect import flow

from fedllm.config import load_federation
from fedllm.review.tags import act_on_tags
from fedllm.versions import open_register
from flows.names import run_name
from flows.output import log_errors_in_one_line, outlive_readers
from flows.promotion import told


@flow(name="review-tags", flow_run_name=run_name, persist_result=False, log_prints=True)
def review_tags(config_uri: str = "params.yaml") -> list[dict[str, Any]]:
    """Act on `review.status` (approved, rejected), `review.reviewer` and `review.reason` of every version.

    Each is acted on once; `review.outcome` then says what happened, a failed gate's sentence among it.

    Args:
        config_uri: the federation's YAML file.

    Returns:
        The versions that were acted on, with their outcome.

    Raises:
        FedllmError: MLflow does not answer, or the file is none.
    """
    outlive_readers()
    log_errors_in_one_line()
    register, rules = open_register(load_federation(config_uri))
    done = act_on_tags(register, rules, tell=told)
    for one in done:
        print(f"version {one.version}: {one.outcome}")  # noqa: T201 - log_prints makes it the flow's log
    return [asdict(one) for one in done]

"""Carry out decisions that people take in MLflow's UI, on a schedule."""

from dataclasses import asdict
from typing import Any

from prefect import flow

from fedllm.config import load_federation
from fedllm.review.tags import act_on_tags
from fedllm.versions import open_register
from flows.names import run_name
from flows.output import log_errors_in_one_line, survive_broken_pipes
from flows.promotion import emit_decision


@flow(name="review-tags", flow_run_name=run_name, persist_result=False, log_prints=True)
def review_tags(config_uri: str = "params.yaml") -> list[dict[str, Any]]:
    """Act on `review.status` (approved, rejected), `review.reviewer` and `review.reason` of every version.

    Each request is taken once; `review.outcome` then says what happened, including a failed gate's reason.

    Args:
        config_uri: the federation's YAML file.

    Returns:
        The versions with a request, and their outcomes.

    Raises:
        FedllmError: MLflow does not answer, or the file is invalid.
    """
    survive_broken_pipes()
    log_errors_in_one_line()
    register, rules = open_register(load_federation(config_uri))
    outcomes = act_on_tags(register, rules, notify=emit_decision)
    for one in outcomes:
        print(f"version {one.version}: {one.outcome}")  # noqa: T201 - log_prints makes it the flow's log
    return [asdict(one) for one in outcomes]

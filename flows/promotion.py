"""Review a version in a flow: show its card, wait for a person, and move the aliases.

While it waits, the run is suspended and needs no process. It restarts from the top when somebody resumes it.
The run's inputs pin what the reviewer was shown; a decision about anything else is refused.
"""

from typing import Any, cast
from uuid import UUID

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.input.actions import create_flow_run_input, read_flow_run_input
from prefect.settings import PREFECT_UI_URL
from prefect.states import Failed
from pydantic import Field

from fedllm.config import load_federation
from fedllm.errors import FedllmError, ReviewError
from fedllm.review.card import Links, render_review
from fedllm.review.decision import decision_request
from fedllm.review.register import ReviewEvent
from fedllm.review.review import Review, champion_changed, decide, review_version
from fedllm.versions import open_register
from flows.names import review_name
from flows.output import log_errors_in_one_line, survive_broken_pipes

SHOWN = "fedllm-shown"  # key of the run's input that pins the version and champion that were shown
_DAY = 86_400  # s


class Approval(RunInput):
    """The reviewer's form."""

    approve: bool = Field(description="Make it the champion; off: reject it.")
    reviewer: str = Field(min_length=1, description="Your name; it is recorded as asserted.")
    reason: str = Field(min_length=1, description="Why; it is recorded.")


@flow(name="promotion", flow_run_name=review_name, persist_result=False, log_prints=True)
def promotion(
    config_uri: str = "params.yaml", version: int | None = None, wait_days: float = 14.0
) -> dict[str, Any]:
    """Review one version of the federation's model.

    Args:
        config_uri: the federation's YAML file.
        version: its number in MLflow's registry; default: the challenger.
        wait_days: time for the reviewer; afterwards the run fails without a decision.

    Returns:
        The decision, and the aliases after it.

    Raises:
        ReviewError: A gate failed although the version was approved, or what was shown has changed; the flow
            run ends as Failed with this message.
    """
    survive_broken_pipes()
    log_errors_in_one_line()
    try:
        return _reviewed(config_uri, version, wait_days)
    except FedllmError as error:
        return cast("dict[str, Any]", Failed(message=str(error), data=error))


def emit_decision(event: ReviewEvent) -> None:
    """Emit a decision's event to Prefect."""
    emit_event(event.kind, event.resource, payload=dict(event.payload), id=UUID(event.id))


def _reviewed(config_uri: str, version: int | None, wait_days: float) -> dict[str, Any]:
    if wait_days <= 0:
        raise ReviewError(f"wait_days is {wait_days:g}: give the reviewer some time")
    register, rules = open_register(load_federation(config_uri))
    shown = cast("dict[str, Any] | None", read_flow_run_input(SHOWN))
    wanted = shown["version"] if shown else version
    review = review_version(register, str(wanted) if wanted is not None else None, rules)
    pinned = shown or _pin(review)
    if review.version.model_sha256 != pinned["model_sha256"]:
        raise ReviewError(f"version {pinned['version']} of {register.name} is not the one that was shown")
    card = render_review(review, Links(register.uri, _ui()))
    if shown is None:
        create_markdown_artifact(
            key=f"{register.name}-review",
            markdown=card,
            description=f"Version {pinned['version']}: the review card",
        )
        print(f"version {pinned['version']} of {register.name} waits for a reviewer")  # noqa: T201 - log_prints
    approval = suspend_flow_run(
        wait_for_input=Approval.with_initial_data(description=card),
        timeout=round(wait_days * _DAY),
        key="review",
    )
    request = decision_request(approve=approval.approve, reviewer=approval.reviewer, reason=approval.reason)
    now, before = review.aliases.champion, pinned["champion"]
    if now not in {before, pinned["version"]}:
        raise ReviewError(champion_changed(register.name, before, now))
    result = decide(register, pinned["version"], request, rules, notify=emit_decision, expect=before)
    decision = result.decision
    print(f"version {decision.version} was {decision.verdict} by {result.who}: {decision.reason}")  # noqa: T201 - log_prints
    return {
        "schema": "fedllm.promote/1",
        "status": decision.verdict,
        "name": register.name,
        "version": decision.version,
        "champion": result.aliases.champion,
        "previous": result.aliases.previous,
        "reviewer": result.who,
        "reason": decision.reason,
        "at": decision.at,
    }


def _pin(review: Review) -> dict[str, Any]:
    """Store what the reviewer is shown in the flow run's inputs: it restarts in another process."""
    version, champion = review.version, review.aliases.champion
    if champion == version.version:
        raise ReviewError(f"version {champion} of {version.name} is the champion already")
    shown = {"version": version.version, "model_sha256": version.model_sha256, "champion": champion}
    create_flow_run_input(SHOWN, shown)
    return shown


def _ui() -> str | None:
    """Return the address of Prefect's pages; None if it is not configured."""
    url = PREFECT_UI_URL.value()
    return str(url).rstrip("/") if url else None

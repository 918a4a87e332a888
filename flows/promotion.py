"""A review as a flow: it shows a version's card, waits for a person, and moves the aliases.

While it waits no process is held: the run is suspended, and begins again at its top when somebody resumes it.
What the reviewer was shown is pinned in the run's own inputs; a decision about anything else is refused.
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
from fedllm.review.decision import said
from fedllm.review.register import ReviewEvent
from fedllm.review.review import Review, changed, decide, look
from fedllm.versions import open_register
from flows.names import review_name
from flows.output import log_errors_in_one_line, outlive_readers

SHOWN = "fedllm-shown"  # key of the run's input that pins what the reviewer was shown
_DAY = 86_400  # s


class Approval(RunInput):
    """What the reviewer types."""

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
        version: its number in MLflow's registry; the challenger if it is not said.
        wait_days: how long a reviewer may take; then the run fails, and nothing was decided.

    Returns:
        What was decided, and what the aliases name since.

    Raises:
        ReviewError: a gate failed, though it was approved, or what was shown has changed; the flow run ends
            as Failed with that line.
    """
    outlive_readers()
    log_errors_in_one_line()
    try:
        return _reviewed(config_uri, version, wait_days)
    except FedllmError as error:
        return cast("dict[str, Any]", Failed(message=str(error), data=error))


def told(event: ReviewEvent) -> None:
    """Emit a decision as Prefect's event."""
    emit_event(event.kind, event.resource, payload=dict(event.payload), id=UUID(event.id))


def _reviewed(config_uri: str, version: int | None, wait_days: float) -> dict[str, Any]:
    if wait_days <= 0:
        raise ReviewError(f"wait_days is {wait_days:g}: give the reviewer some time")
    register, rules = open_register(load_federation(config_uri))
    before = cast("dict[str, Any] | None", read_flow_run_input(SHOWN))
    wanted = before["version"] if before else version
    review = look(register, str(wanted) if wanted is not None else None, rules)
    pinned = before or _pin(review)
    if review.version.model_sha256 != pinned["model_sha256"]:
        raise ReviewError(f"version {pinned['version']} of {register.name} is not the one that was shown")
    card = render_review(review, Links(register.uri, _ui()))
    if before is None:
        create_markdown_artifact(
            key=f"{register.name}-review",
            markdown=card,
            description=f"Version {pinned['version']}: what is decided about",
        )
        print(f"version {pinned['version']} of {register.name} waits for a reviewer")  # noqa: T201 - log_prints
    asked = suspend_flow_run(
        wait_for_input=Approval.with_initial_data(description=card),
        timeout=round(wait_days * _DAY),
        key="review",
    )
    words = said(approve=asked.approve, reviewer=asked.reviewer, reason=asked.reason)
    now, was = review.aliases.champion, pinned["champion"]
    if now not in {was, pinned["version"]}:
        raise ReviewError(changed(register.name, was, now))
    done = decide(register, pinned["version"], words, rules, tell=told, expect=was)
    taken = done.decision
    print(f"version {taken.version} was {taken.verdict} by {done.who}: {taken.reason}")  # noqa: T201 - log_prints
    return {
        "schema": "fedllm.promote/1",
        "status": taken.verdict,
        "name": register.name,
        "version": taken.version,
        "champion": done.aliases.champion,
        "previous": done.aliases.previous,
        "reviewer": done.who,
        "reason": taken.reason,
        "at": taken.at,
    }


def _pin(review: Review) -> dict[str, Any]:
    """Keep what the reviewer is shown with the flow run: it begins again in another process."""
    version, champion = review.version, review.aliases.champion
    if champion == version.version:
        raise ReviewError(f"version {champion} of {version.name} is the champion already")
    shown = {"version": version.version, "model_sha256": version.model_sha256, "champion": champion}
    create_flow_run_input(SHOWN, shown)
    return shown


def _ui() -> str | None:
    """Where Prefect's pages are."""
    url = PREFECT_UI_URL.value()
    return str(url).rstrip("/") if url else None

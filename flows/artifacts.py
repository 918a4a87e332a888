"""Show a round in Prefect's UI as artifacts."""

from dataclasses import asdict

from prefect import get_run_logger
from prefect.artifacts import create_link_artifact, create_progress_artifact, create_table_artifact

from fedllm.coordinator.privacy_plan import privacy_plan
from fedllm.coordinator.progress import evaluations
from fedllm.coordinator.release import site_rows
from fedllm.coordinator.release_privacy import spent
from fedllm.coordinator.training import Training
from fedllm.journal.outcomes import Audited, Released
from fedllm.protocol.terms import told_in_words
from flows import events

_MOST_ROWS = 200  # security events shown; the journal keeps more


def show_audit(training: Training, number: int, audited: Audited) -> None:
    """Show what each site did in a round, and dp-audit's verdict on it."""
    rows = site_rows(training, number, audited)
    create_table_artifact(
        key=f"{training.config.name}-sites",
        table=rows,
        description=f"Round {number} of {training.run}: what each site did and what dp-audit found",
    )


def show_budget(training: Training, number: int) -> None:
    """Show how much of the privacy budget is spent, at the site that spent most."""
    plan, largest = privacy_plan(training), spent(training, number)
    if plan is None or largest is None:
        return
    name = training.config.name
    create_progress_artifact(
        min(100.0, 100 * largest / plan.epsilon),
        key=f"{name}-privacy-budget",
        description=f"{training.run}: {told_in_words(plan, largest)}, after round {number}",
    )


def show_security(training: Training, number: int) -> None:
    """Show what was refused so far, if anything; emit an event if this round added to it."""
    name, run = training.config.name, training.run
    rows = [asdict(event) for event in training.journal.security.events(run)]
    if not rows:
        return
    create_table_artifact(
        key=f"{name}-security",
        table=rows[-_MOST_ROWS:],
        description=f"{run}: what was refused, from whom and why; `fedllm events` shows all of it",
    )
    new = [row for row in rows if row["round"] == number]
    if new:
        payload = {"run": run, "round": number, "events": new[-_MOST_ROWS:]}
        events.emit(name, events.SECURITY, payload, run=run)


def show_metrics(training: Training) -> None:
    """Show the quality on the public set, by round."""
    measured = evaluations(training)
    rows = [
        {
            "round": number or "zero-shot",
            **{name: round(value, 4) for name, value in done.metrics.items()},
        }
        for number, done in measured.items()
    ]
    create_table_artifact(
        key=f"{training.config.name}-quality",
        table=rows,
        description=f"{training.run}: quality on the public set, by round",
    )


def show_release(training: Training, number: int, done: Released) -> None:
    """Link a round's version in the registry, or log why there is none."""
    if done.refused is not None:
        get_run_logger().error("round %d is kept and not published: %s", number, done.refused)
        return
    if done.uri is None:
        get_run_logger().warning("round %d waits for MLflow: it is published when MLflow answers", number)
        return
    create_link_artifact(
        key=f"{training.config.name}-version",
        link=f"{training.tracking_uri}/#/models/{done.name}/versions/{done.version}",
        link_text=f"{done.name} version {done.version}",
        description=f"Round {number} of {training.run} in MLflow's registry",
    )

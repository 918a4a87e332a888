"""Step 5, evaluate: the coordinator's own public set, against zero-shot and the champion."""

import math

from fedllm.coordinator.payloads import forget_updates, read_model
from fedllm.coordinator.training import Training
from fedllm.data.prepare import load_public
from fedllm.errors import TrackingError, TrainingError
from fedllm.journal.outcomes import Aggregated, Audited, Dispatched, Evaluated
from fedllm.milestones import Evaluating
from fedllm.milestones import report as milestone
from fedllm.models.codec import decode_flat
from fedllm.protocol.messages import COORDINATOR, EVERYONE, Report, Sealed
from fedllm.training.public_answers import public_answers


def evaluate(training: Training, number: int) -> Evaluated:
    """Measure a round's model and publish the round's report.

    Raises:
        TrainingError: the model answers with no finite number any more.
    """
    journal, run = training.journal, training.run
    model = journal.require(run, number, "aggregate", Aggregated).model
    # The aggregate is on record: nobody needs a single site's update any more.
    forget_updates(training, number, journal.require(run, number, "dispatch", Dispatched).sites)
    measured = _measure(training, number, model)
    closed = journal.require(run, number, "dp-audit", Audited)

    def report() -> Report:
        return Report(
            federation=training.config.name,
            sender=COORDINATOR,
            receiver=EVERYONE,
            run=run,
            round=number,
            roster_version=training.roster.roster_version,
            closed_sha256=closed.closed_sha256,
            model=model,
            metrics=measured.metrics,
        )

    training.publish(training.layout.report(run, number), report)
    return measured.model_copy(update={"champion": _champion(training)})


def baseline(training: Training) -> Evaluated:
    """Zero-shot: the base model with the adapter as it is before the first round."""
    return training.journal.once(training.run, 0, "baseline", Evaluated, lambda: _measure(training, 0, None))


def _measure(training: Training, number: int, model: Sealed | None) -> Evaluated:
    from fedllm.training.evaluate import evaluate as measure

    learner = training.learner()
    if model is None:
        learner.shared.write(training.initial())
    else:
        learner.shared.write(decode_flat(read_model(training, model), learner.shared.layout.size))
    public = load_public(training.config, training.public)

    def progress(done: int) -> None:
        training.check()
        milestone(Evaluating(number, done, len(public)))

    found = measure(learner, public, progress=progress)
    if not math.isfinite(found.loss):
        raise TrainingError(
            f"the model's loss on the public set is {found.loss}: training diverged; lower local.lr"
        )
    metrics = {"loss": found.loss}
    if found.accuracy is not None:
        metrics["accuracy"] = found.accuracy
    for group, part in sorted(found.by_group.items()):
        metrics[f"loss/{group}"] = part.loss
        if part.accuracy is not None:
            metrics[f"accuracy/{group}"] = part.accuracy
    groups = {group: part.count for group, part in sorted(found.by_group.items())}
    answers = public_answers(public, found.losses, found.right)
    return Evaluated(metrics=metrics, records=found.count, by_group=groups, answers=answers)


def _champion(training: Training) -> dict[str, float] | None:
    """The champion's metrics, when MLflow is there and has one."""
    if training.tracking_uri is None:
        return None
    from fedllm.tracking import Tracker

    try:
        return Tracker(training.tracking_uri).champion_metrics(training.config.name)
    except TrackingError:
        return None  # MLflow being away never stops a round

"""Step 5, evaluate: measure the model on the coordinator's public set, against zero-shot and champion."""

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
from fedllm.tasks.loss import LOSS
from fedllm.tasks.metrics import chosen_name, counting_metric, measured_metrics
from fedllm.training.public_answers import public_answers


def evaluate(training: Training, number: int) -> Evaluated:
    """Measure a round's model and publish the round's report.

    Raises:
        TrainingError: the model's loss is not finite.
    """
    journal, run = training.journal, training.run
    model = journal.require(run, number, "aggregate", Aggregated).model
    # The aggregate is on record: the sites' updates are no longer needed.
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
    """Measure zero-shot once: the base model with the initial adapter. Return the recorded result."""
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

    config = training.config
    wanted = measured_metrics(config.task, config.evaluation.metric)
    result = measure(learner, public, {one.name: one.compute for one in wanted}, progress=progress)
    loss = result.metrics[LOSS.name]
    if not math.isfinite(loss):
        raise TrainingError(
            f"the model's loss on the public set is {loss}: training diverged; lower local.lr"
        )
    metrics = dict(result.metrics)
    for group, group_result in result.by_group.items():
        metrics |= {f"{name}/{group}": value for name, value in group_result.metrics.items()}
    return Evaluated(
        metrics=metrics,
        records=result.count,
        by_group={group: group_result.count for group, group_result in result.by_group.items()},
        answers=public_answers(public, result.judged, (counting_metric(config).needs,)),
        metric=chosen_name(config),
    )


def _champion(training: Training) -> dict[str, float] | None:
    """Return the champion's metrics; None if MLflow does not answer or has no champion."""
    if training.tracking_uri is None:
        return None
    from fedllm.tracking import Tracker

    try:
        return Tracker(training.tracking_uri).champion_metrics(training.config.name)
    except TrackingError:
        return None  # an unreachable MLflow never stops a round

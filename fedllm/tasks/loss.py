"""Loss: the mean over records of the cross-entropy of the answer's tokens, or of an image's class."""

from collections.abc import Sequence

from fedllm.tasks.metric import Comparison, Interval, Measured, Metric, unpairable
from fedllm.training.intervals import paired_mean
from fedllm.training.judged import Judged
from fedllm.training.public_answers import PublicAnswers


def _compute(judged: Sequence[Judged]) -> float:
    return sum(one.loss for one in judged) / len(judged)


def _interval(value: float, records: int, answers: PublicAnswers | None) -> Interval | None:
    """Return None: losses vary with the records' content, so a mean's interval says little about a model."""
    del value, records, answers
    return None


def _compare(new: Measured, old: Measured) -> Comparison:
    """Compare pairs of losses where both are recorded; else there is no interval."""
    value = old.metrics["loss"] - new.metrics["loss"]
    why = unpairable(new, old)
    if new.answers and old.answers and not why:
        mine, theirs = new.answers.losses, old.answers.losses
        if mine is not None and theirs is not None:
            difference = paired_mean([b - a for a, b in zip(mine, theirs, strict=True)])
            how = f"paired on {len(mine)} records, Student's t"
            return Comparison(LOSS, difference.value, difference, how)
        why = "single losses are not on record"
    return Comparison(LOSS, value, None, f"not paired, for {why}")


LOSS = Metric(
    name="loss",
    words="loss",
    higher_is_better=False,
    share=False,
    unit="nats a token of the answer",
    gain="of loss saved",
    needs="losses",
    compute=_compute,
    compare=_compare,
    interval=_interval,
    method="",
)

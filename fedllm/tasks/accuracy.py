"""Accuracy: the share of records whose likeliest label is the expected one."""

from collections.abc import Sequence

from fedllm.tasks.metric import Comparison, Interval, Measured, Metric, unpairable
from fedllm.training.intervals import count_pairs, mcnemar, paired, unpaired, wilson
from fedllm.training.judged import Judged
from fedllm.training.public_answers import PublicAnswers


def _compute(judged: Sequence[Judged]) -> float:
    return sum(one.given == one.expected for one in judged) / len(judged)


def _interval(value: float, records: int, answers: PublicAnswers | None) -> Interval | None:
    del answers  # the number of right answers, from the value, is enough
    return wilson(round(value * records), records) if records else None


def _compare(new: Measured, old: Measured) -> Comparison:
    """Compare pairs of answers where both are recorded, else two independent shares."""
    value = new.metrics["accuracy"] - old.metrics["accuracy"]
    why = unpairable(new, old)
    if new.answers and old.answers and not why:
        mine, theirs = new.answers.judged, old.answers.judged
        if mine is not None and theirs is not None:
            pairs = count_pairs(mine, theirs)
            how = (
                f"paired on {pairs.records} records, Newcombe 1998; right where the other was wrong: "
                f"{pairs.first} and {pairs.second}, exact McNemar p = {mcnemar(pairs):.2g}"
            )
            difference = paired(pairs)
            return Comparison(ACCURACY, difference.value, difference, how)
        why = "answers are not on record"
    if new.records is None or old.records is None:
        return Comparison(ACCURACY, value, None, "on how many records one was measured is not on record")
    right, other = (
        round(one.metrics["accuracy"] * records) for one, records in ((new, new.records), (old, old.records))
    )
    how = f"not paired, for {why}: on {new.records} and {old.records} records, Newcombe 1998"
    return Comparison(ACCURACY, value, unpaired(right, new.records, other, old.records), how)


ACCURACY = Metric(
    name="accuracy",
    words="accuracy",
    higher_is_better=True,
    share=True,
    unit="",
    gain="points of accuracy",
    needs="right",
    compute=_compute,
    compare=_compare,
    interval=_interval,
    method="Wilson",
)

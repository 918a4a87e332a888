"""Macro F1: the unweighted mean of the labels' F1, so that a rare label weighs as much as a frequent one.

Matches scikit-learn's `f1_score(average="macro")`: the labels are those expected or given at least once, and
a label's F1 is 2 TP / (expected + given), 0 if no answer is right.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedllm.tasks.metric import Comparison, Interval, Measured, Metric, unpairable
from fedllm.training.intervals import CONFIDENCE, Difference
from fedllm.training.judged import Judged
from fedllm.training.public_answers import PublicAnswers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESAMPLES = 2000
_SEED = 1
_DRAWN_AT_ONCE = 100  # resamples, which bounds memory to some megabytes


def _compute(judged: Sequence[Judged]) -> float:
    pairs = Counter((one.expected, one.given) for one in judged)
    right = {label: pairs[label, label] for pair in pairs for label in pair}
    seen = Counter[str | None]()
    for (expected, given), count in pairs.items():
        seen[expected] += count
        seen[given] += count
    return sum(2 * right[label] / seen[label] for label in right) / len(right)


def _interval(value: float, records: int, answers: PublicAnswers | None) -> Interval | None:
    """Return the percentile bootstrap interval over records."""
    del value, records
    if answers is None or answers.labels is None or answers.records == 1:
        return None
    scores = _bootstrap([answers.labels.pairs])[0]
    return _percentiles(scores)


def _compare(new: Measured, old: Measured) -> Comparison:
    """Compare by paired percentile bootstrap where both models' labels are recorded."""
    value = new.metrics["macro_f1"] - old.metrics["macro_f1"]
    why = unpairable(new, old)
    if new.answers and old.answers and not why:
        mine, theirs = new.answers.labels, old.answers.labels
        if mine is not None and theirs is not None:
            records = new.answers.records
            how = f"paired on {records} records, percentile bootstrap of {RESAMPLES} resamples"
            return Comparison(MACRO_F1, value, _difference(value, records, mine.pairs, theirs.pairs), how)
        why = "labels are not on record"
    return Comparison(MACRO_F1, value, None, f"not paired, for {why}")


def _difference(
    value: float, records: int, mine: Sequence[tuple[str, str]], theirs: Sequence[tuple[str, str]]
) -> Difference:
    """Return a difference on the same records with its interval, which is infinite for one record."""
    if records == 1:
        return Difference(value, -float("inf"), float("inf"))
    first, second = _bootstrap([mine, theirs])
    return Difference(value, *_percentiles(first - second))


def _bootstrap(models: Sequence[Sequence[tuple[str, str]]]) -> "list[NDArray[np.float64]]":
    """Compute each model's macro F1 on the same resamples of the records (Efron & Tibshirani 1993, ch. 13).

    Macro F1 depends only on the counts of each combination of expected and given labels. In a resample of n
    records these counts are multinomial, so the counts are drawn instead of the records.

    Args:
        models: each model's (expected, given) labels per record, in the records' order.

    Returns:
        One array of shape (RESAMPLES,) per model.
    """
    import numpy as np

    counts = Counter(zip(*models, strict=True))
    cells = sorted(counts)  # each has one (expected, given) pair per model
    shares = np.array([counts[cell] for cell in cells]) / counts.total()  # (cells,)
    labels = sorted({label for cell in cells for pair in cell for label in pair})
    rng = np.random.default_rng(_SEED)
    scores: list[list[NDArray[np.float64]]] = [[] for _ in models]
    for _ in range(RESAMPLES // _DRAWN_AT_ONCE):
        drawn = rng.multinomial(counts.total(), shares, size=_DRAWN_AT_ONCE)  # (together, cells)
        for number, kept in enumerate(scores):
            pairs = [cell[number] for cell in cells]
            expected = np.array([[label == pair[0] for label in labels] for pair in pairs])  # (cells, labels)
            given = np.array([[label == pair[1] for label in labels] for pair in pairs])
            right = drawn @ (expected & given)  # (together, labels)
            seen = drawn @ (expected.astype(int) + given)  # (together, labels)
            each = np.divide(2 * right, seen, out=np.zeros(seen.shape), where=seen > 0)
            kept.append(each.sum(1) / (seen > 0).sum(1))
    return [np.concatenate(kept) for kept in scores]


def _percentiles(values: "NDArray[np.float64]") -> Interval:
    import numpy as np

    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


MACRO_F1 = Metric(
    name="macro_f1",
    words="macro F1",
    higher_is_better=True,
    share=True,
    unit="",
    gain="points of macro F1",
    needs="labels",
    compute=_compute,
    compare=_compare,
    interval=_interval,
    method="percentile bootstrap",
)

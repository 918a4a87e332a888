"""The interface of metrics: how a value is computed and shown, and how two models are compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fedllm.training.intervals import Difference
from fedllm.training.judged import Judged
from fedllm.training.public_answers import PublicAnswers

Part = Literal["right", "losses", "labels"]  # of `PublicAnswers`
Interval = tuple[float, float]


@dataclass(frozen=True)
class Measured:
    """One model's metrics on the public set."""

    metrics: Mapping[str, float]
    records: int | None  # number measured; None: not recorded
    answers: PublicAnswers | None  # None: not recorded
    metric: str | None = None  # the one that counts; None: the task's own


@dataclass(frozen=True)
class Metric:
    """One metric: a constant in its own file, listed in `fedllm.tasks.metrics`.

    Attributes:
        name: the key in mappings, tags and JSON; lower-case letters, digits and underscores.
        words: the name as written within a sentence.
        higher_is_better: False if lower is better.
        share: whether values are between 0 and 1 and shown as percentages.
        unit: of a value, in words; empty for percentages.
        gain: the words for an improvement, after its number.
        needs: what `PublicAnswers` must keep per record for `compare` and `interval`; `right` and `labels`
            restrict a metric to tasks with labels.
        compute: the value over at least one judged record.
        compare: compares two models, the new one first.
        interval: the 95 % confidence interval of one model's value, from the value, the number of records,
            and their answers (None for a group); returns None if there is no interval.
        method: the name of the method behind `interval`; empty if there is none.
    """

    name: str
    words: str
    higher_is_better: bool
    share: bool
    unit: str
    gain: str
    needs: Part
    compute: Callable[[Sequence[Judged]], float]
    compare: Callable[[Measured, Measured], "Comparison"]
    interval: Callable[[float, int, PublicAnswers | None], Interval | None]
    method: str

    @property
    def title(self) -> str:
        """The name with a capital, as at the start of a heading."""
        return self.words[:1].upper() + self.words[1:]

    @property
    def of_labels(self) -> bool:
        """Whether the metric needs expected and given labels."""
        return self.needs != "losses"

    def score(self, value: float) -> float:
        """Return a number that is higher for the better of two values."""
        return value if self.higher_is_better else -value

    def shown(self, value: float, digits: int = 4) -> str:
        """Format a value: a percentage with one decimal, or a number with `digits` decimals."""
        return f"{100 * value:.1f} %" if self.share else f"{value:.{digits}f}"

    def signed(self, difference: float) -> str:
        """Format a difference with its sign, in percentage points or as a number."""
        return f"{100 * difference:+.1f}" if self.share else f"{difference:+.4f}"


@dataclass(frozen=True)
class Comparison:
    """The improvement of one model over another, in the metric's unit."""

    metric: Metric
    value: float  # above 0 the new model is better
    interval: Difference | None  # None: MLflow does not hold what it needs
    how: str  # method and data

    @property
    def words(self) -> str:
        """`+1.2 points of accuracy (95 %: -0.4 to +2.9; …)`."""
        signed = self.metric.signed
        within = (
            f"95 %: {signed(self.interval.low)} to {signed(self.interval.high)}; "
            if self.interval is not None
            else "no interval; "
        )
        return f"{signed(self.value)} {self.metric.gain} ({within}{self.how})"


def unpairable(new: Measured, old: Measured) -> str:
    """Return why two models cannot be compared in pairs; empty if they can."""
    if new.answers is None or old.answers is None:
        return "answers are not on record"
    if new.answers.public_sha256 != old.answers.public_sha256:
        return "they were measured on different public sets"
    return ""

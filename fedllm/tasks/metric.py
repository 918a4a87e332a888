"""The seam of metrics: what a metric is, how a model's value is shown, and how two models are compared."""

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
    """One model on the public set."""

    metrics: Mapping[str, float]
    records: int | None  # that were measured; None: not on record
    answers: PublicAnswers | None  # None: not on record
    metric: str | None = None  # the one that counts; None: the task's own


@dataclass(frozen=True)
class Metric:
    """One metric: a constant in a file of its own, and a line in `fedllm.tasks.metrics`.

    Attributes:
        name: the key in mappings, tags and JSON; small letters, digits and underscores.
        words: the name as people read it, within a sentence.
        higher_is_better: else lower is.
        share: whether values are between 0 and 1 and shown as percentages.
        unit: of a value, in words; empty where a percentage says it.
        gain: what a difference that is better is called, after its number.
        needs: what `PublicAnswers` must keep of single records for `compare` and `interval`; a metric that
            needs `right` or `labels` is one of tasks with labels alone.
        compute: the value over judged records, at least one.
        compare: two models, the new one first.
        interval: where the value of one model lies with 95 % confidence; from the value, the number of
            records, and their answers (None for a group of them). None where there is no interval.
        method: how `interval` comes about; empty where there is none.
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
        """The name where a heading begins."""
        return self.words[:1].upper() + self.words[1:]

    @property
    def of_labels(self) -> bool:
        """Whether the metric is one of expected and given labels."""
        return self.needs != "losses"

    def score(self, value: float) -> float:
        """A number that is higher for the better of two values."""
        return value if self.higher_is_better else -value

    def shown(self, value: float, digits: int = 4) -> str:
        """A value: a percentage with one digit, or a number with `digits` of them."""
        return f"{100 * value:.1f} %" if self.share else f"{value:.{digits}f}"

    def signed(self, difference: float) -> str:
        """A difference, in percentage points or as a number, with its sign."""
        return f"{100 * difference:+.1f}" if self.share else f"{difference:+.4f}"


@dataclass(frozen=True)
class Comparison:
    """How much better one model is than another, in the metric's own unit."""

    metric: Metric
    value: float  # above 0 the new model is better
    interval: Difference | None  # None: it cannot be told from what MLflow holds
    how: str  # by which method, from what

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
    """Why two models cannot be compared record by record; empty where they can."""
    if new.answers is None or old.answers is None:
        return "answers are not on record"
    if new.answers.public_sha256 != old.answers.public_sha256:
        return "they were measured on different public sets"
    return ""

"""How well `anonymize` finds: personal data of many formats planted into real texts, and found or not.

presidio's patterns were widened after a first look at what they missed (`fedllm.data.personal`), so the
figure is a hopeful one. Names are not measured: they are found from a list or not at all.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from fedllm.bench.planted_values import KINDS, seeded
from fedllm.data.personal import Finder, Span
from fedllm.errors import DataError

RULE = (
    "right: one finding of the kind planted that covers every character of the value; found and not planted "
    "counts as wrong, also where the text had it before"
)

_SENTENCES = (  # where the corpus cannot be had
    "The battery lasted two days and then never charged again.",
    "I would buy this a second time without thinking twice.",
    "Nobody at the counter could tell me when it would arrive.",
    "A slow beginning, but the last half hour is worth the ticket.",
    "They promised a refund in March and it is July now.",
)
_CARRIERS = ("{}", "({})", "{},", "{}.", '"{}"', ": {}", "{};")  # what stands around a value


@dataclass(frozen=True)
class Score:
    """Counts of one kind: values planted, findings, right ones, and values of which no character is left."""

    planted: int = 0
    found: int = 0
    right: int = 0
    hidden: int = 0

    def __add__(self, other: "Score") -> "Score":
        return Score(
            self.planted + other.planted,
            self.found + other.found,
            self.right + other.right,
            self.hidden + other.hidden,
        )

    @property
    def precision(self) -> float:
        """Right ones among what was found."""
        return self.right / max(1, self.found)

    @property
    def recall(self) -> float:
        """Right ones among what was planted."""
        return self.right / max(1, self.planted)

    @property
    def f1(self) -> float:
        """The harmonic mean of both."""
        return 2 * self.right / max(1, self.found + self.planted)

    @property
    def share_hidden(self) -> float:
        """Hidden ones among what was planted."""
        return self.hidden / max(1, self.planted)

    def json(self) -> dict[str, object]:
        """The counts and the shares."""
        shares = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        return {**asdict(self), **shares, "share_hidden": self.share_hidden}


def measure(finder: Finder, texts: Sequence[str], *, each: int = 200, seed: int = 1) -> dict[str, Score]:
    """Plant `each` values of every kind, one a text, and leave as many texts without."""
    draw, fake = random.Random(seed), seeded(seed)  # noqa: S311 - test data
    scores = {kind: Score() for kind in KINDS}
    for kind, formats in KINDS.items():
        for number in range(each):
            value = formats[number % len(formats)](fake)
            text, planted = _plant(draw, draw.choice(texts), value, kind)
            _judge(finder.spans(text), planted, scores)
            _judge(finder.spans(draw.choice(texts)), None, scores)
    return scores


def corpus() -> tuple[str, list[str]]:
    """The sentiment corpus' texts where they can be had, else a handful of sentences; and their name."""
    from fedllm.data.sources import load_source

    try:
        return "sentiment", [record["text"] for record in load_source("sentiment")]
    except DataError:
        return "five sentences", list(_SENTENCES)


def _plant(draw: random.Random, text: str, value: str, kind: str) -> tuple[str, Span]:
    """The value between two words."""
    words = text.split(" ")
    at = draw.randint(0, len(words))
    before, _, after = draw.choice(_CARRIERS).partition("{}")
    head = " ".join([*words[:at], before]) if at else before
    tail = " ".join([after, *words[at:]]) if at < len(words) else after
    return head + value + tail, Span(len(head), len(head) + len(value), kind)


def _judge(found: Sequence[Span], planted: Span | None, scores: dict[str, Score]) -> None:
    for span in found:
        scores[span.entity] += Score(found=1)
    if planted is not None:
        whole = any(
            span.entity == planted.entity and span.start <= planted.start and planted.end <= span.end
            for span in found
        )
        left = set(range(planted.start, planted.end))
        for span in found:
            left -= set(range(span.start, span.end))
        scores[planted.entity] += Score(planted=1, right=whole, hidden=not left)

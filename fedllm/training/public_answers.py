"""A compact record of a model's answers to the public set, for paired comparison of two models."""

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedllm.data.records import Record
from fedllm.training.judged import Judged

ARTIFACT = "public_answers.json"  # in a round's run

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
LabelIndex = Annotated[int, Field(ge=0)]  # index of a label in the names


class Labels(BaseModel):
    """Each record's expected and given label, as indices into a list of names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...]
    expected: tuple[LabelIndex, ...]
    given: tuple[LabelIndex, ...]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(self.expected) != len(self.given):
            raise ValueError(f"{len(self.expected)} expected and {len(self.given)} given labels")
        if max((*self.expected, *self.given), default=0) >= len(self.names):
            raise ValueError("a label has no name")
        return self

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The expected and the given label of each record, by name."""
        return [(self.names[a], self.names[b]) for a, b in zip(self.expected, self.given, strict=True)]


class PublicAnswers(BaseModel):
    """A model's answers to the coordinator's public set, in the order of its records.

    Tasks with labels keep a bitmap of right answers: record i is bit i % 8 of byte i // 8, the lowest first.
    Other tasks keep each record's loss. The metric that counts may need further parts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    public_sha256: Sha256  # of the records, as `public_sha256` hashes them
    records: Annotated[int, Field(ge=1)]
    right: Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$")] | None = None  # the bitmap, hex
    losses: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] | None = None  # six digits
    labels: Labels | None = Field(default=None, exclude_if=lambda labels: labels is None)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.right is not None and len(self.right) != 2 * ((self.records + 7) // 8):
            raise ValueError(f"the bitmap does not fit {self.records} records")
        if self.losses is not None and len(self.losses) != self.records:
            raise ValueError(f"{len(self.losses)} losses for {self.records} records")
        if self.labels is not None and len(self.labels.given) != self.records:
            raise ValueError(f"{len(self.labels.given)} labels for {self.records} records")
        return self

    @property
    def judged(self) -> tuple[bool, ...] | None:
        """Whether each record's answer was right; None for a task without labels."""
        if self.right is None:
            return None
        bitmap = bytes.fromhex(self.right)
        return tuple(bool(bitmap[i // 8] >> i % 8 & 1) for i in range(self.records))


def public_answers(
    records: Sequence[Record], judged: Sequence[Judged], needs: Collection[str] = ()
) -> PublicAnswers | None:
    """Record an evaluation of public records; None if it holds numbers that are not finite.

    Args:
        records: the public set.
        judged: each record's judgement, in the same order.
        needs: parts that a comparison needs besides the bitmap, or besides losses where there are no labels.
    """
    labelled = all(one.expected is not None for one in judged)
    try:
        return PublicAnswers(
            public_sha256=public_sha256(records),
            records=len(records),
            right=_bitmap(judged) if labelled else None,
            losses=tuple(float(f"{one.loss:.6g}") for one in judged)
            if "losses" in needs or not labelled
            else None,
            labels=_labels(judged) if "labels" in needs else None,
        )
    except ValueError:
        return None


def _bitmap(judged: Sequence[Judged]) -> str:
    bitmap = bytearray((len(judged) + 7) // 8)
    for i, one in enumerate(judged):
        bitmap[i // 8] |= (one.given == one.expected) << i % 8
    return bitmap.hex()


def _labels(judged: Sequence[Judged]) -> Labels:
    pairs = [(str(one.expected), str(one.given)) for one in judged]
    names = sorted({label for pair in pairs for label in pair})
    index = {name: number for number, name in enumerate(names)}
    return Labels(
        names=tuple(names),
        expected=tuple(index[expected] for expected, _ in pairs),
        given=tuple(index[given] for _, given in pairs),
    )


def public_sha256(records: Sequence[Record]) -> str:
    """Return the SHA-256 of the records as JSON lines with sorted keys, each ended by LF, in order."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(dict(record), sort_keys=True, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()

"""Which public records a model answered rightly, kept small, so that two models can be compared in pairs."""

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedllm.data.records import Record
from fedllm.training.judged import Judged

ARTIFACT = "public_answers.json"  # of a round's run

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Place = Annotated[int, Field(ge=0)]  # of a label among the names


class Labels(BaseModel):
    """Each record's expected and given label, as places in a list of names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...]
    expected: tuple[Place, ...]
    given: tuple[Place, ...]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(self.expected) != len(self.given):
            raise ValueError(f"{len(self.expected)} expected and {len(self.given)} given labels")
        if max((*self.expected, *self.given), default=0) >= len(self.names):
            raise ValueError("a label has no name")
        return self

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The names, record by record: expected, given."""
        return [(self.names[a], self.names[b]) for a, b in zip(self.expected, self.given, strict=True)]


class PublicAnswers(BaseModel):
    """A model's answers to the coordinator's public set, record by record in the set's order.

    Where answers are right or wrong, a bitmap: record i is bit i % 8 of byte i // 8, the lowest first. Else
    each record's loss. A metric that counts may need more beside it.
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
            raise ValueError(f"the bitmap is not of {self.records} records")
        if self.losses is not None and len(self.losses) != self.records:
            raise ValueError(f"{len(self.losses)} losses are not of {self.records} records")
        if self.labels is not None and len(self.labels.given) != self.records:
            raise ValueError(f"{len(self.labels.given)} labels are not of {self.records} records")
        return self

    @property
    def judged(self) -> tuple[bool, ...] | None:
        """Whether each record's answer was right; None where no answer is the right one."""
        if self.right is None:
            return None
        bitmap = bytes.fromhex(self.right)
        return tuple(bool(bitmap[i // 8] >> i % 8 & 1) for i in range(self.records))


def public_answers(
    records: Sequence[Record], judged: Sequence[Judged], needs: Collection[str] = ()
) -> PublicAnswers | None:
    """Keep an evaluation of public records; None where it holds numbers that are not finite.

    Args:
        records: the public set.
        judged: each record's judgement, in the same order.
        needs: parts that a comparison needs beside the bitmap, or beside losses where there are no labels.
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
    place = {name: number for number, name in enumerate(names)}
    return Labels(
        names=tuple(names),
        expected=tuple(place[expected] for expected, _ in pairs),
        given=tuple(place[given] for _, given in pairs),
    )


def public_sha256(records: Sequence[Record]) -> str:
    """SHA-256 of the records as JSON lines with sorted keys, each ended by LF, in their order."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(dict(record), sort_keys=True, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()

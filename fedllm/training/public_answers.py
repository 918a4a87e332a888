"""Which public records a model answered rightly, kept small, so that two models can be compared in pairs."""

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedllm.data.records import Record

ARTIFACT = "public_answers.json"  # of a round's run

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PublicAnswers(BaseModel):
    """A model's answers to the coordinator's public set, record by record in the set's order.

    Where answers are right or wrong, a bitmap: record i is bit i % 8 of byte i // 8, the lowest first. Else
    each record's loss.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    public_sha256: Sha256  # of the records, as `public_sha256` hashes them
    records: Annotated[int, Field(ge=1)]
    right: Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$")] | None = None  # the bitmap, hex
    losses: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] | None = None  # six digits

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.right is not None and len(self.right) != 2 * ((self.records + 7) // 8):
            raise ValueError(f"the bitmap is not of {self.records} records")
        if self.losses is not None and len(self.losses) != self.records:
            raise ValueError(f"{len(self.losses)} losses are not of {self.records} records")
        return self

    @property
    def judged(self) -> tuple[bool, ...] | None:
        """Whether each record's answer was right; None where no answer is the right one."""
        if self.right is None:
            return None
        bitmap = bytes.fromhex(self.right)
        return tuple(bool(bitmap[i // 8] >> i % 8 & 1) for i in range(self.records))


def public_answers(
    records: Sequence[Record], losses: Sequence[float], right: Sequence[bool | None]
) -> PublicAnswers | None:
    """Keep an evaluation of public records; None where it holds numbers that are not finite."""
    digest = public_sha256(records)
    judged = [answer for answer in right if answer is not None]
    if len(judged) == len(records):
        bitmap = bytearray((len(records) + 7) // 8)
        for i, answer in enumerate(judged):
            bitmap[i // 8] |= answer << i % 8
        return PublicAnswers(public_sha256=digest, records=len(records), right=bitmap.hex())
    try:
        short = tuple(float(f"{loss:.6g}") for loss in losses)
        return PublicAnswers(public_sha256=digest, records=len(records), losses=short)
    except ValueError:
        return None


def public_sha256(records: Sequence[Record]) -> str:
    """SHA-256 of the records as JSON lines with sorted keys, each ended by LF, in their order."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(dict(record), sort_keys=True, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()

"""The entries of a privacy ledger: their fields, their canonical encoding, hash and signature.

The encoding: a *statement* is the JSON of all fields of an entry but `context` and `signature`:
keys sorted, `,` and `:` without spaces, ASCII only, absent values `null`, integers in decimal digits.
The real numbers (`sampling_rate`, `noise_multiplier`, `delta`) are strings of 16 hex digits, IEEE 754
binary64, big-endian, because languages differ in how they print 1e-05. `LF` is the byte 10:

    signature      = Ed25519 over `fedllm.ledger-entry/1` LF statement
    sha256         = SHA-256 over `fedllm.ledger-entry/1` LF statement LF signature, as 128 hex digits
    context_sha256 = SHA-256 over `fedllm.ledger-context/1` LF the context's JSON in the same encoding

The prefixes separate these signatures from a key's others: DSSE signs bytes that begin with `DSSEv1`.
`previous` is the sha256 of the entry before, so a signature covers the whole chain up to its entry. A nonce
salts the context's hash: an entry without its context reveals neither federation nor run, and its hash stays
the same. No entry has a timestamp: the time at which a site trained is private under DP.
"""

import hashlib
import json
import struct
from typing import Annotated, Any, Literal, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedllm.config.frozen import DatasetId, Name
from fedllm.errors import LedgerError
from fedllm.protocol.terms import Unit

Kind = Literal["open", "reserve", "charge", "settle", "rekey"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # Ed25519, hex
RunId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Count = Annotated[int, Field(ge=0, lt=2**53)]

ENTRY = b"fedllm.ledger-entry/1\n"
CONTEXT = b"fedllm.ledger-context/1\n"
NOTHING = "0" * 64  # `previous` of the first entry

_REAL = ("sampling_rate", "noise_multiplier", "delta")
_EVENT = {"sampling_rate", "noise_multiplier", "steps", "reservation", "context_sha256"}
_BODY: dict[Kind, set[str]] = {  # the fields of each kind; all others are absent
    "open": {"unit"},
    "reserve": {"sampling_rate", "noise_multiplier", "steps", "delta", "context_sha256"},
    "charge": {*_EVENT, "first"},
    "settle": {"steps", "reservation", "context_sha256"},
    "rekey": {"key"},  # and optionally `retires`
}
_FIELDS = set.union(*_BODY.values(), {"retires"})


class ChainHead(BaseModel):
    """Sequence number and hash of a chain's newest entry; the hash covers the whole chain."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    seq: Count
    sha256: Sha256


class Context(BaseModel):
    """The training that an entry belongs to; disclosed only to that training's federation."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    federation: Name
    run: RunId
    round: Count  # 0: the whole run
    plan_sha256: Sha256  # of the privacy plan
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]

    @property
    def sha256(self) -> str:
        """Return the entry's `context_sha256`."""
        return hashlib.sha256(CONTEXT + _json(self.model_dump())).hexdigest()


class LedgerEntry(BaseModel):
    """One privacy event of a data set.

    `open` sets the unit. `reserve` reserves the maximum steps of a whole training, `charge` takes steps
    `first` to `first + steps - 1` of a round from it before their noise is drawn, `settle` closes it and
    returns the remaining `steps`. From `rekey` on, `key` may sign too, or instead of `retires`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    seq: Count
    kind: Kind
    dataset: DatasetId
    unit: Unit | None = None
    sampling_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    noise_multiplier: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None  # times the clip
    steps: Count | None = None
    first: Count | None = None  # step of the round, from 0
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None  # of the training's plan
    reservation: Count | None = None  # seq of the `reserve` entry that it belongs to
    key: Key | None = None
    retires: Key | None = None
    context_sha256: Sha256 | None = None
    previous: Sha256
    by: Key
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    context: Context | None = None  # None: no training, or not disclosed

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        present = {name for name in _FIELDS if getattr(self, name) is not None}
        if present - {"retires"} != _BODY[self.kind] or ("retires" in present and self.kind != "rekey"):
            raise ValueError(f"{self.kind} says {', '.join(sorted(_BODY[self.kind]))}, and nothing else")
        if self.kind in {"reserve", "charge"} and not self.steps:
            raise ValueError(f"{self.kind} is of at least one step")
        if self.context is not None and self.context.sha256 != self.context_sha256:
            raise ValueError("context is not the one that was signed")
        return self

    @property
    def statement(self) -> bytes:
        """Return the signed bytes."""
        values = self.model_dump(exclude={"context", "signature"})
        return _json(values | {name: _binary64(values[name]) for name in _REAL})

    @property
    def sha256(self) -> str:
        """Return the entry's hash, the `previous` of the next entry."""
        return hashlib.sha256(ENTRY + self.statement + b"\n" + self.signature.encode()).hexdigest()

    @property
    def head(self) -> ChainHead:
        """Return the head of a chain that ends with this entry."""
        return ChainHead(seq=self.seq, sha256=self.sha256)

    def redacted(self) -> "LedgerEntry":
        """Return the entry without its context; its hash is the same."""
        return self if self.context is None else self.model_copy(update={"context": None})

    def check_signature(self) -> None:
        """Raise `LedgerError` unless `by` signed this entry."""
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.by))
        try:
            key.verify(bytes.fromhex(self.signature), ENTRY + self.statement)
        except InvalidSignature:
            place = f"ledger of {self.dataset}: entry {self.seq}"
            raise LedgerError(f"{place} was edited: it is not what {self.by[:16]}… signed") from None


def signed(signer: Ed25519PrivateKey, /, **values: Any) -> LedgerEntry:  # noqa: ANN401 - an entry's fields
    """Create an entry and sign it; `by`, `signature` and `context_sha256` are filled in."""
    context: Context | None = values.get("context")
    unsigned = LedgerEntry(
        **values,
        context_sha256=context.sha256 if context else None,
        by=signer.public_key().public_bytes_raw().hex(),
        signature="0" * 128,
    )
    return unsigned.model_copy(update={"signature": signer.sign(ENTRY + unsigned.statement).hex()})


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def _binary64(number: float | None) -> str | None:
    return None if number is None else struct.pack(">d", number).hex()

"""One link of a ledger of privacy events: what an entry says, its one encoding, its hash and its signature.

The encoding, exactly. A *statement* is the JSON of all fields of an entry but `context` and `signature`:
keys sorted, `,` and `:` without spaces, ASCII alone, absent values `null`, whole numbers in decimal digits.
The real numbers (`sampling_rate`, `noise_multiplier`, `delta`) are strings of 16 hex digits, IEEE 754
binary64 with the highest byte first: no two languages print 1e-05 alike. With `LF` for the byte 10:

    signature      = Ed25519 over `fedllm.ledger-entry/1` LF statement
    sha256         = SHA-256 over `fedllm.ledger-entry/1` LF statement LF signature, as 128 hex digits
    context_sha256 = SHA-256 over `fedllm.ledger-context/1` LF the context's JSON, encoded likewise

The prefixes keep a key's signatures apart: DSSE signs what begins with `DSSEv1`. `previous` is the former
entry's sha256, so whoever signs an entry vouches for all before it. A context is salted by its nonce, so
that an entry without its context names neither federation nor run and is still the same link. Nothing here
is a time: when a site trained is private under DP.
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
_BODY: dict[Kind, set[str]] = {  # what an entry of a kind says, and nothing else
    "open": {"unit"},
    "reserve": {"sampling_rate", "noise_multiplier", "steps", "delta", "context_sha256"},
    "charge": {*_EVENT, "first"},
    "settle": {"steps", "reservation", "context_sha256"},
    "rekey": {"key"},  # and perhaps `retires`
}
_FIELDS = set.union(*_BODY.values(), {"retires"})


class Head(BaseModel):
    """The newest entry of a chain, which stands for all before it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    seq: Count
    sha256: Sha256


class Context(BaseModel):
    """Which training an entry is about; shown to that federation alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    federation: Name
    run: RunId
    round: Count  # 0 where it is about the whole run
    plan_sha256: Sha256  # of the privacy plan
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]

    @property
    def sha256(self) -> str:
        """What an entry holds of its context."""
        return hashlib.sha256(CONTEXT + _json(self.model_dump())).hexdigest()


class Entry(BaseModel):
    """One privacy event of a data set.

    `open` fixes the unit. `reserve` promises a whole training's most steps, `charge` takes steps `first` to
    `first + steps - 1` of a round from it before their noise is drawn, `settle` ends it and gives `steps`
    back. `rekey` lets `key` sign from here on, in the place of `retires` or beside it.
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
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None  # that the training is planned for
    reservation: Count | None = None  # the seq of the `reserve` that is drawn on
    key: Key | None = None
    retires: Key | None = None
    context_sha256: Sha256 | None = None
    previous: Sha256
    by: Key
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    context: Context | None = None  # None: not about a training, or not for the reader

    @model_validator(mode="after")
    def _whole(self) -> Self:
        said = {name for name in _FIELDS if getattr(self, name) is not None}
        if said - {"retires"} != _BODY[self.kind] or ("retires" in said and self.kind != "rekey"):
            raise ValueError(f"{self.kind} says {', '.join(sorted(_BODY[self.kind]))}, and nothing else")
        if self.kind in {"reserve", "charge"} and not self.steps:
            raise ValueError(f"{self.kind} is of at least one step")
        if self.context is not None and self.context.sha256 != self.context_sha256:
            raise ValueError("context is not the one that was signed")
        return self

    @property
    def statement(self) -> bytes:
        """The bytes that the signature is about."""
        said = self.model_dump(exclude={"context", "signature"})
        return _json(said | {name: _binary64(said[name]) for name in _REAL})

    @property
    def sha256(self) -> str:
        """What the next entry names as `previous`."""
        return hashlib.sha256(ENTRY + self.statement + b"\n" + self.signature.encode()).hexdigest()

    @property
    def head(self) -> Head:
        """This entry as the newest of its chain."""
        return Head(seq=self.seq, sha256=self.sha256)

    def redacted(self) -> "Entry":
        """The same link without its context."""
        return self if self.context is None else self.model_copy(update={"context": None})

    def check_signature(self) -> None:
        """Raise `LedgerError` unless `by` signed this entry."""
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.by))
        try:
            key.verify(bytes.fromhex(self.signature), ENTRY + self.statement)
        except InvalidSignature:
            place = f"ledger of {self.dataset}: entry {self.seq}"
            raise LedgerError(f"{place} was edited: it is not what {self.by[:16]}… signed") from None


def signed(signer: Ed25519PrivateKey, /, **said: Any) -> Entry:  # noqa: ANN401 - an entry's own fields
    """An entry that `signer` signs; `by`, `signature` and `context_sha256` are filled in."""
    context: Context | None = said.get("context")
    bare = Entry(
        **said,
        context_sha256=context.sha256 if context else None,
        by=signer.public_key().public_bytes_raw().hex(),
        signature="0" * 128,
    )
    return bare.model_copy(update={"signature": signer.sign(ENTRY + bare.statement).hex()})


def _json(said: dict[str, Any]) -> bytes:
    return json.dumps(said, sort_keys=True, separators=(",", ":")).encode()


def _binary64(number: float | None) -> str | None:
    return None if number is None else struct.pack(">d", number).hex()

"""Signed messages: DSSE envelopes over the exact bytes of a message, by Ed25519.

A reader verifies before it parses: bytes that the expected sender did not sign reach no JSON parser but the
one of the envelope itself. DSSE v1: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
"""

import base64
import binascii
import json
import math
from typing import Annotated, Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import (  # type: ignore[attr-defined]  # its __init__ re-exports without `as`
    CryptoSigner,
    Signature,
    SSlibKey,
)

from fedllm.errors import IdentityError, RefusedError
from fedllm.protocol.messages import EVERYONE, Message, PublicKeys
from fedllm.secure.identity import Identity

PAYLOAD_TYPE = "application/vnd.fedllm+json"
_WIDEST = 10_000  # fields of one object
_BYTES_A_VALUE = 16  # of the largest envelope of a kind: honest messages take more for each of their values

M = TypeVar("M", bound=Message)


class _Signature(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    keyid: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    sig: Annotated[str, Field(max_length=128)]  # base64


class _Outer(BaseModel):
    """The envelope as it travels: one signature, since each message has one sender."""

    model_config = ConfigDict(extra="forbid", strict=True)

    payload: str  # base64
    payload_type: str = Field(alias="payloadType")
    signatures: Annotated[list[_Signature], Field(min_length=1, max_length=1)]


def sign(message: Message, identity: Identity) -> bytes:
    """The message in an envelope that `identity` signed, as JSON bytes.

    The payload is JSON with sorted keys and no spaces; the same message and key give the same bytes.

    Raises:
        IdentityError: The message names another sender.
        RefusedError: The message is larger than its kind may be, or holds a number that JSON has not.
    """
    if message.sender != identity.name:
        raise IdentityError(f"{identity.name} cannot sign what {message.sender} says")
    data = sign_payload(_canonical(message), PAYLOAD_TYPE, identity)
    _refuse_large(data, type(message))
    return data


def sign_payload(payload: bytes, payload_type: str, identity: Identity) -> bytes:
    """Bytes of any type in an envelope that `identity` signed, as JSON bytes in their one encoding.

    A payload type of its own keeps a signature of one kind from passing for another kind's.
    """
    envelope = Envelope(payload, payload_type, {})
    envelope.sign(CryptoSigner(identity.signing))
    return _encoded(envelope)


def open_envelope(  # noqa: PLR0913 - every field of the head that a reader may force on
    data: bytes,
    kind: type[M],
    keys: PublicKeys,
    *,
    federation: str,
    sender: str,
    receiver: str | None = None,
    run: str | None = None,
    round: int | None = None,  # noqa: A002 - the field's own name
    roster_version: int | None = None,
) -> M:
    """The message of `kind` in `data`, if `sender` signed it with `keys` for this place and time.

    Args:
        data: The envelope's JSON bytes, from anybody.
        kind: What it should be; fixes the schema and the largest size.
        keys: The sender's, from the roster, a card checked by a person, or an invitation.
        federation: This federation.
        sender: Who should have said it.
        receiver: The reader's own name; also lets pass what is said to everyone. None: whoever it is for.
        run: This run; None for any.
        round: This round; None for any.
        roster_version: The roster in force; None for any.

    Raises:
        RefusedError: With the first reason found; nothing of a refused message is used.
    """
    _refuse_large(data, kind)
    if keys.name != sender:
        raise RefusedError(f"the keys at hand are {keys.name}'s, not {sender}'s")
    payload = verified_payload(data, PAYLOAD_TYPE, keys)
    message = _parsed(payload, kind)
    wanted: dict[str, tuple[object, ...]] = {
        "federation": (federation,),
        "sender": (sender,),
        "receiver": (receiver, EVERYONE),
        "run": (run,),
        "round": (round,),
        "roster_version": (roster_version,),
    }
    for name, allowed in wanted.items():
        if allowed[0] is None:
            continue
        if (found := getattr(message, name)) not in allowed:
            raise RefusedError(f"{name} is {found!r}, not {allowed[0]!r}")
    return message


def _encoded(envelope: Envelope) -> bytes:
    """The one encoding of an envelope: its hash changes with payload and signature, and with nothing else."""
    return json.dumps(envelope.to_dict(), sort_keys=True, separators=(",", ":")).encode()


def _canonical(message: Message) -> bytes:
    try:
        return json.dumps(
            message.model_dump(mode="json", by_alias=True),
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
        ).encode()
    except ValueError:
        raise RefusedError("a number of the message is not finite") from None


def verified_payload(data: bytes, payload_type: str, keys: PublicKeys) -> bytes:
    """The payload's bytes, once their signature holds; nothing of them is parsed here.

    Raises:
        RefusedError: this is no envelope of that payload type in its one encoding, or another key signed it.
    """
    try:
        outer = _Outer.model_validate_json(data, strict=True)
        payload = base64.b64decode(outer.payload, validate=True)
        signature = base64.b64decode(outer.signatures[0].sig, validate=True)
    except (ValidationError, binascii.Error, ValueError):
        raise RefusedError("no DSSE envelope with one signature") from None
    if outer.payload_type != payload_type:
        raise RefusedError(f"payload type is not {payload_type}")
    keyid = outer.signatures[0].keyid
    envelope = Envelope(payload, outer.payload_type, {keyid: Signature(keyid, signature.hex())})
    try:
        envelope.verify([_verifier(keys)], 1)
    except VerificationError:
        raise RefusedError(f"signature is not {keys.name}'s") from None
    if _encoded(envelope) != data:
        # Else whoever holds the store could wrap one message in two ways and have its sender blamed for both.
        raise RefusedError("the envelope is not in its one encoding")
    return payload


def _verifier(keys: PublicKeys) -> SSlibKey:
    return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(bytes.fromhex(keys.verify)))


def _parsed(payload: bytes, kind: type[M]) -> M:
    """Parse strictly: pydantic alone would let the last of two equal keys win, and 1e999 be infinite.

    A few bytes can be a value of their own, and each that is wrong costs pydantic kilobytes: what has far
    more of them than honest messages is refused before anything is made of it.
    """
    most = kind.largest // _BYTES_A_VALUE
    if sum(map(payload.count, (b",", b"[", b"{"))) > most:
        raise RefusedError(f"no {kind.__name__.lower()}: more than {most} values")
    try:
        raw = json.loads(
            payload.decode(), object_pairs_hook=_unique, parse_constant=_never, parse_float=_finite
        )
        if not isinstance(raw, dict) or "schema" not in raw:  # pydantic would put the kind's own in its place
            raise RefusedError(f"no {kind.__name__.lower()}: schema is missing")
        # By name here: pydantic would copy the message for each field that is missing.
        for name, field in kind.model_fields.items():
            if field.is_required() and name not in raw:
                raise RefusedError(f"no {kind.__name__.lower()}: {name}: Field required")
        return kind.model_validate_json(payload, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in fault["loc"])[:100]
        raise RefusedError(
            f"no {kind.__name__.lower()}: {place or 'message'}: {fault['msg'][:200]}"
        ) from None
    except RecursionError:
        raise RefusedError("nested too deeply") from None
    except ValueError as error:  # also json's and unicode's
        raise RefusedError(f"not strict JSON: {str(error)[:100]}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > _WIDEST:
        raise ValueError(f"an object of more than {_WIDEST} fields")
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _never(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number is out of range")
    return number


def _refuse_large(data: bytes, kind: type[Message]) -> None:
    if len(data) > kind.largest:
        raise RefusedError(f"{len(data)} bytes are more than the {kind.largest} of a {kind.__name__.lower()}")

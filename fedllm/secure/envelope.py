"""Signed messages: DSSE envelopes over the exact bytes of a message, with Ed25519.

A reader verifies before it parses: only the envelope itself is parsed before the signature is checked.
DSSE v1: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
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
_WIDEST = 10_000  # most fields of one object
_BYTES_PER_VALUE = 16  # honest messages have more; the largest envelope of a kind limits the number of values

M = TypeVar("M", bound=Message)


class _Signature(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    keyid: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    sig: Annotated[str, Field(max_length=128)]  # base64


class _Outer(BaseModel):
    """The envelope's JSON form: one signature, since each message has one sender."""

    model_config = ConfigDict(extra="forbid", strict=True)

    payload: str  # base64
    payload_type: str = Field(alias="payloadType")
    signatures: Annotated[list[_Signature], Field(min_length=1, max_length=1)]


def sign(message: Message, identity: Identity) -> bytes:
    """Return the message in an envelope signed by `identity`, as JSON bytes.

    The payload is JSON with sorted keys and no spaces; the same message and key give the same bytes.

    Raises:
        IdentityError: The message names another sender.
        RefusedError: The message is larger than its kind may be, or has a number that JSON cannot express.
    """
    if message.sender != identity.name:
        raise IdentityError(f"{identity.name} cannot sign what {message.sender} says")
    data = sign_payload(_canonical(message), PAYLOAD_TYPE, identity)
    _refuse_large(data, type(message))
    return data


def sign_payload(payload: bytes, payload_type: str, identity: Identity) -> bytes:
    """Return any payload in an envelope signed by `identity`, as JSON bytes in canonical encoding.

    Distinct payload types prevent a signature for one kind from being valid for another.
    """
    envelope = Envelope(payload, payload_type, {})
    envelope.sign(CryptoSigner(identity.signing))
    return _encoded(envelope)


def open_envelope(  # noqa: PLR0913 - every header field that a reader may require
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
    """Return the message of `kind` in `data` if `sender` signed it with `keys` and its header matches.

    Args:
        data: The envelope's JSON bytes, untrusted.
        kind: The expected kind; determines the schema and the largest size.
        keys: The sender's keys, from the roster, a card checked by a person, or an invitation.
        federation: This federation.
        sender: The expected sender.
        receiver: The reader's own name; messages to everyone also pass. None for any.
        run: This run; None for any.
        round: This round; None for any.
        roster_version: The current roster version; None for any.

    Raises:
        RefusedError: With the first reason; nothing of a refused message is used.
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
        if (value := getattr(message, name)) not in allowed:
            raise RefusedError(f"{name} is {value!r}, not {allowed[0]!r}")
    return message


def _encoded(envelope: Envelope) -> bytes:
    """Return an envelope's canonical encoding: its hash depends only on payload and signature."""
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
    """Return the payload's bytes, unparsed, after verifying their signature.

    Raises:
        RefusedError: `data` is no canonically encoded envelope of that type, or another key signed it.
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
        # Otherwise the store could encode one message in two ways and accuse its sender of equivocation.
        raise RefusedError("the envelope is not in its canonical encoding")
    return payload


def _verifier(keys: PublicKeys) -> SSlibKey:
    return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(bytes.fromhex(keys.verify)))


def _parsed(payload: bytes, kind: type[M]) -> M:
    """Parse strictly: pydantic alone would keep the last of duplicate keys, and read 1e999 as infinity.

    A value may be a few bytes, and each invalid one costs pydantic kilobytes: a payload with far more values
    than honest messages have is refused before it is parsed.
    """
    most = kind.largest // _BYTES_PER_VALUE
    if sum(map(payload.count, (b",", b"[", b"{"))) > most:
        raise RefusedError(f"no {kind.__name__.lower()}: more than {most} values")
    try:
        raw = json.loads(
            payload.decode(), object_pairs_hook=_unique, parse_constant=_never, parse_float=_finite
        )
        if not isinstance(raw, dict) or "schema" not in raw:  # pydantic would insert the kind's own
            raise RefusedError(f"no {kind.__name__.lower()}: schema is missing")
        # Checked here, since pydantic would copy the message for each missing field.
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
    except ValueError as error:  # includes the errors of json and unicode
        raise RefusedError(f"not strict JSON: {str(error)[:100]}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > _WIDEST:
        raise ValueError(f"an object of more than {_WIDEST} fields")
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key appears twice")
    return fields


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

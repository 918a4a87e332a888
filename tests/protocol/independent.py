"""A second reader of the exchange, written from docs/protocol.md: it shares no code with the first.

It uses the standard library, numpy and the primitives of `cryptography`; fedllm, securesystemslib, pyrage,
safetensors and torch are not imported, which tests/protocol/test_independent.py checks.
"""

import base64
import hashlib
import json
import math
import struct
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tests.protocol.independent_checks import RefusedError
from tests.protocol.independent_messages import LARGEST, check_message

PAYLOAD_TYPE = "application/vnd.fedllm+json"


def sha256(data: bytes) -> str:
    """SHA-256, hex."""
    return hashlib.sha256(data).hexdigest()


def compact(value: object) -> bytes:
    """JSON with sorted keys, no spaces, UTF-8: how messages are written."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def keyid(verify: str) -> str:
    """The key id of an Ed25519 public key given in hex."""
    return sha256(compact({"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": verify}}))


def pae(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """DSSE's pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_envelope(payload: bytes, seed: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """An envelope around `payload`, signed with the Ed25519 key of a 32-byte seed."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    signature = {
        "keyid": keyid(key.public_key().public_bytes_raw().hex()),
        "sig": base64.b64encode(key.sign(pae(payload, payload_type))).decode(),
    }
    outer = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [signature],
    }
    return compact(outer)


def open_envelope(data: bytes, schema: str, verify: str, **expected: object) -> dict[str, Any]:
    """The message in an envelope; `expected` are fields of the head and what they must be.

    `receiver` may also be `everyone`.
    """
    if len(data) > LARGEST[schema]:
        raise RefusedError("larger than a message of this kind may be")
    outer = _loads(data)
    if not isinstance(outer, dict) or set(outer) != {"payload", "payloadType", "signatures"}:
        raise RefusedError("no envelope")
    signatures = outer["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1 or set(signatures[0]) != {"keyid", "sig"}:
        raise RefusedError("not one signature")
    if outer["payloadType"] != PAYLOAD_TYPE or signatures[0]["keyid"] != keyid(verify):
        raise RefusedError("another payload type or key")
    payload = _unb64(outer["payload"])
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(verify))
        signature = _unb64(signatures[0]["sig"])
        public.verify(signature, pae(payload))
    except InvalidSignature:
        raise RefusedError("the signature is wrong") from None
    if base64.b64encode(signature).decode() != signatures[0]["sig"]:
        raise RefusedError("not canonical base64")
    if compact(outer | {"payload": base64.b64encode(payload).decode()}) != data:
        raise RefusedError("not in the one encoding of an envelope")
    _count_values(payload, LARGEST[schema])
    message = _loads(payload)
    check_message(message, schema)
    for name, wanted in expected.items():
        found = message.get(name)
        if found != wanted and not (name == "receiver" and found == "everyone"):
            raise RefusedError(f"{name} is {found!r}, not {wanted!r}")
    return dict(message)


def _count_values(payload: bytes, largest: int) -> None:
    if sum(payload.count(mark) for mark in (b",", b"[", b"{")) > largest // 16:
        raise RefusedError("too many values")


def _unb64(text: object) -> bytes:
    if not isinstance(text, str):
        raise RefusedError("base64 is text")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise RefusedError("not base64") from None


def _loads(data: bytes) -> Any:  # noqa: ANN401 - JSON
    """Strict JSON: UTF-8 without a mark, no key twice, no number that is not finite, no half characters."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(pairs) > 10_000:
            raise RefusedError("an object of too many fields")
        if len({key for key, _ in pairs}) != len(pairs):
            raise RefusedError("a key appears twice")
        return dict(pairs)

    def finite(digits: str) -> float:
        if not math.isfinite(number := float(digits)):
            raise RefusedError("a number is not finite")
        return number

    try:
        found = json.loads(data.decode(), object_pairs_hook=once, parse_float=finite, parse_constant=finite)
        json.dumps(found, ensure_ascii=False).encode()  # half of a surrogate pair is no character
    except RecursionError:
        raise RefusedError("nested too deeply") from None
    except ValueError as error:
        raise RefusedError(f"not strict JSON: {error}") from None
    return found


def fingerprint(name: str, verify: str, recipient: str) -> str:
    """What two people read to each other."""
    digest = hashlib.sha256(f"fedllm.keys/1\n{name}\n{verify}\n{recipient}\n".encode()).digest()
    letters = base64.b32encode(digest[:20]).decode().lower()
    return "-".join(letters[i : i + 4] for i in range(0, 32, 4))


def layout_sha256(pairs: list[tuple[str, list[int]]]) -> str:
    """The hash of the flat tensor's names and shapes, in its order."""
    text = json.dumps([[name, shape] for name, shape in pairs], separators=(",", ":"))
    return sha256(text.encode())


def write_flat(values: "np.ndarray[Any, np.dtype[np.float32]]") -> bytes:
    """One flat fp32 tensor as a safetensors file."""
    return _flat_header(values.size) + values.astype("<f4").tobytes()


def read_flat(data: bytes, size: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Read a flat tensor of `size` numbers."""
    header = _flat_header(size)
    if not data.startswith(header) or len(data) != len(header) + 4 * size:
        raise RefusedError("not one flat fp32 tensor of this size")
    values = np.frombuffer(data[len(header) :], "<f4")
    if not np.isfinite(values).all():
        raise RefusedError("a number is not finite")
    return values


def _flat_header(size: int) -> bytes:
    text = b'{"adapter":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}' % (size, 4 * size)
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def expand(seed: int, name: str, rows: int, columns: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """A frozen matrix, number by number."""
    absorbed = hashlib.shake_256(b"fedllm.ffa-lora/1\x00" + struct.pack("<Q", seed) + name.encode())
    bound = np.float32(math.sqrt(1 / columns))
    numbers = [
        np.float32((word >> 8) / 2**23 - 1) * bound
        for (word,) in struct.iter_unpack("<I", absorbed.digest(4 * rows * columns))
    ]
    return np.array(numbers, np.float32).reshape(rows, columns)


def site_seed(seed: int, site: str) -> int:
    """A site's seed for its batches."""
    return int(hashlib.sha256(f"{seed}/{site}".encode()).hexdigest()[:8], 16)


def cohort(live: list[str], seed: int, number: int, size: int) -> list[str]:
    """Who of the live sites takes part in a round."""
    return sorted(sorted(live, key=lambda site: sha256(f"{seed}/{number}/{site}".encode()))[:size])


def mean(updates: "list[tuple[int, np.ndarray[Any, np.dtype[np.float32]]]]", fixed: int | None = None) -> Any:  # noqa: ANN401 - an array
    """The weighted mean of updates in the order of closed.json, fp32; `fixed` stands for the weights' sum."""
    total = np.zeros(updates[0][1].shape, np.float64)
    for weight, update in updates:
        total += update.astype(np.float64) * weight
    return (total / (fixed or sum(weight for weight, _ in updates))).astype(np.float32)


def denominator(plan: dict[str, Any]) -> int | None:
    """What a round's sum is divided by where it is not the sum of its weights."""
    privacy = plan.get("privacy")
    return len(plan["sites"]) if privacy and privacy["unit"] == "site" else None

"""Privacy plans and ledger entries: their fields, and the exact bytes that are hashed and signed."""

import json
import struct
from hashlib import sha256
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tests.protocol.independent_checks import (
    COUNT,
    NAME,
    RUN,
    SHA,
    Check,
    RefusedError,
    list_of,
    map_of,
    matches,
    number,
    object_of,
    one_of,
    or_null,
    text,
    whole,
)

DATASET = matches(r"[A-Za-z0-9._-]{1,100}")
UNIT = one_of("record", "person", "site")
RATE, DELTA = number(0, most=1), number(0, below=1)

LEDGER_HEAD = object_of({"dataset": DATASET, "seq": COUNT, "sha256": SHA})
TERMS: dict[str, Check] = {"sampling_rate": RATE, "noise_multiplier": number(0)}
PRIVACY = object_of(
    TERMS
    | {
        "unit": UNIT,
        "epsilon": number(0),
        "delta": DELTA,
        "clip": number(0),
        "rounds": whole(1, 10_000_000),
        "steps": whole(1, 10_000_000),
    },
    {
        "adjacency": one_of("add-remove"),
        "unit_field": or_null(text(200)),
        "max_per_person": whole(1, 1000),
        "min_honest": whole(1, 10_000),
        "sites": map_of(NAME, object_of(TERMS), 10_000),
    },
)
CONTEXT = object_of(
    {"federation": NAME, "run": RUN, "round": COUNT, "plan_sha256": SHA, "nonce": matches("[0-9a-f]{32}")}
)
ENTRY_FIELDS = object_of(
    {
        "seq": COUNT,
        "kind": one_of("open", "reserve", "charge", "settle", "rekey"),
        "dataset": DATASET,
        "previous": SHA,
        "by": SHA,
        "signature": matches("[0-9a-f]{128}"),
    },
    {
        "unit": or_null(UNIT),
        "sampling_rate": or_null(RATE),
        "noise_multiplier": or_null(number(0)),
        "steps": or_null(COUNT),
        "first": or_null(COUNT),
        "delta": or_null(DELTA),
        "reservation": or_null(COUNT),
        "key": or_null(SHA),
        "retires": or_null(SHA),
        "context_sha256": or_null(SHA),
        "context": or_null(CONTEXT),
    },
)
SAYS = {  # the fields of a kind that are not null; of the others, those that are spared always are
    "open": {"unit"},
    "reserve": {"sampling_rate", "noise_multiplier", "steps", "delta", "context_sha256"},
    "charge": {"sampling_rate", "noise_multiplier", "steps", "first", "reservation", "context_sha256"},
    "settle": {"steps", "reservation", "context_sha256"},
    "rekey": {"key"},
}
OPTIONAL = set.union(*SAYS.values(), {"retires"})
REAL = {"sampling_rate", "noise_multiplier", "delta"}
NOTHING = "0" * 64

Entry = dict[str, Any]


def ENTRY(found: Any) -> bool:  # noqa: ANN401, N802 - a check like the others
    """One entry, its signature apart."""
    if not ENTRY_FIELDS(found):
        return False
    kind = found["kind"]
    said = {name for name in OPTIONAL if found.get(name) is not None}
    if said - ({"retires"} if kind == "rekey" else set()) != SAYS[kind]:
        return False
    if kind in {"reserve", "charge"} and found["steps"] == 0:
        return False
    told = found.get("context")
    return told is None or context_sha256(told) == found.get("context_sha256")


ENTRIES = list_of(ENTRY, 10_000)


def _compact(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def context_sha256(context: dict[str, Any]) -> str:
    """What an entry holds of its context."""
    return sha256(b"fedllm.ledger-context/1\n" + _compact(context)).hexdigest()


def statement(entry: Entry) -> bytes:
    """What is signed of an entry, but for its prefix."""
    said: dict[str, Any] = {}
    for name in ("seq", "kind", "dataset", "previous", "by", *OPTIONAL):
        value = entry.get(name)
        said[name] = struct.pack(">d", value).hex() if name in REAL and value is not None else value
    return _compact(said)


def entry_sha256(entry: Entry) -> str:
    """An entry's hash."""
    signed = b"fedllm.ledger-entry/1\n" + statement(entry)
    return sha256(signed + b"\n" + entry["signature"].encode()).hexdigest()


def sign_entry(entry: Entry, seed: bytes) -> Entry:
    """The entry, signed with a 32-byte seed; every field is there, those that say nothing as null."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    told = entry.get("context")
    whole_entry = dict.fromkeys(sorted(OPTIONAL)) | entry | {"by": key.public_key().public_bytes_raw().hex()}
    whole_entry |= {"context": told} | ({"context_sha256": context_sha256(told)} if told else {})
    signature = key.sign(b"fedllm.ledger-entry/1\n" + statement(whole_entry))
    return whole_entry | {"signature": signature.hex()}


def check_entry(entry: Entry) -> None:
    """Refuse an entry that is not what its key signed."""
    if not ENTRY(entry):
        raise RefusedError("no entry of a ledger")
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(entry["by"]))
        public.verify(bytes.fromhex(entry["signature"]), b"fedllm.ledger-entry/1\n" + statement(entry))
    except InvalidSignature:
        raise RefusedError("the entry's signature is wrong") from None


def privacy_sha256(plan: dict[str, Any]) -> str:
    """The hash of a privacy plan: its fields with what was left out, real numbers as decimals."""
    filled = {
        "adjacency": "add-remove",
        "unit_field": None,
        "max_per_person": 1,
        "min_honest": 1,
        "sites": {},
    } | plan
    real = {"sampling_rate", "noise_multiplier", "epsilon", "delta", "clip"}

    def spelt(fields: dict[str, Any]) -> dict[str, Any]:
        return {name: float(value) if name in real else value for name, value in fields.items()}

    filled["sites"] = {site: spelt(terms) for site, terms in filled["sites"].items()}
    return sha256(_compact(spelt(filled))).hexdigest()

"""The ways in which a hostile site spoils an update: each changes a `Case` before it is sent."""

import base64
import gzip
import json
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import strategies as st
from safetensors.torch import load as stock_load
from safetensors.torch import save
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # re-exported without `as`

from fedllm.protocol.messages import Update
from fedllm.secure.envelope import PAYLOAD_TYPE
from fedllm.secure.identity import Identity
from tests.coordinator.played import PlayedRound, PlayedSite

HOSTILE = "movies"  # the site that is
TENSOR = "adapter"


def compact(outer: dict[str, Any]) -> bytes:
    """The one encoding of an envelope: other checks than that of its encoding are to be reached."""
    return json.dumps(outer, sort_keys=True, separators=(",", ":")).encode()


def envelope(payload: bytes, me: Identity, kind: str = PAYLOAD_TYPE) -> bytes:
    """Whatever bytes, truly signed."""
    wrapped = Envelope(payload, kind, {})
    wrapped.sign(CryptoSigner(me.signing))
    return compact(wrapped.to_dict())


@dataclass
class Case:
    """One update on its way to being spoilt."""

    round_: PlayedRound
    site: PlayedSite
    draw: Callable[[st.SearchStrategy[Any]], Any]
    flat: torch.Tensor
    data: bytes | None = None  # what is sealed, if it is no longer `flat`
    recipient: str | None = None
    described: dict[str, Any] = field(default_factory=dict)  # changes of the payload's description
    told: dict[str, Any] = field(default_factory=dict)  # changes of the message
    raw: Callable[[bytes], bytes] | None = None  # changes of the signed JSON before it is signed
    wire: Callable[[bytes], bytes] | None = None  # changes of the envelope
    signer: Identity | None = None
    after: Callable[[], None] | None = None  # what happens once the coordinator has pinned the message

    @property
    def codec(self) -> str:
        return self.round_.plan.codec

    def pick(self, *choices: Any) -> Any:  # noqa: ANN401 - whatever is chosen from
        return self.draw(st.sampled_from(choices))


# what is inside the payload


def encoded(flat: torch.Tensor, codec: str) -> bytes:
    """A vector in a codec's own format by stock safetensors, which refuses nothing."""
    return save({TENSOR: flat.to({"fp32": torch.float32, "fp16": torch.float16}[codec])})


def shape(case: Case) -> None:
    size = len(case.flat)
    case.data = encoded(case.flat[: case.draw(st.integers(0, size - 1))], case.codec)


def longer(case: Case) -> None:
    case.data = encoded(torch.cat([case.flat, case.flat[: case.draw(st.integers(1, 9))]]), case.codec)


def padded(case: Case) -> None:
    data = encoded(case.flat, case.codec)
    case.data = data + case.pick(b"\x00", bytes(8), data[-2:])


def another_codec(case: Case) -> None:
    """Bytes of another codec than the plan's, of as many numbers or of as many bytes."""
    other = {"fp32": "fp16", "fp16": "fp32"}[case.codec]
    pair = torch.cat([case.flat, case.flat])
    as_long = pair if case.codec == "fp32" else case.flat[: len(case.flat) // 2]
    case.data = encoded(case.pick(case.flat, as_long), other)


def folded(case: Case) -> None:
    case.data = encoded(case.flat.reshape(2, -1).contiguous(), case.codec)


def dtype(case: Case) -> None:
    kind = case.pick(torch.bfloat16, torch.float64, torch.int32, torch.int8, torch.bool)
    case.data = save({TENSOR: case.flat.to(kind)})


def named(case: Case) -> None:
    case.data = save({case.pick("weight", "../flat", "", "__metadata__x", "flat\x00"): case.flat})


def several(case: Case) -> None:
    own = stock_load(encoded(case.flat, case.codec))
    case.data = case.pick(save(own | {"more": torch.zeros(3)}), save(own, {"format": "pt"}))


def infinite(case: Case) -> None:
    case.flat[case.draw(st.integers(0, len(case.flat) - 1))] = case.pick(
        float("nan"), float("inf"), float("-inf")
    )


def enormous(case: Case) -> None:
    case.flat *= case.pick(1e6, 1e20, 3e38, -1e9)


def nothing(case: Case) -> None:
    case.flat *= 0


def lying_header(case: Case) -> None:
    """A safetensors header that promises what is not there."""
    kind, width = {"fp32": ("F32", 4), "fp16": ("F16", 2)}[case.codec]
    size = width * len(case.flat)
    begin, end = case.pick((0, size + 4), (8, size), (size, 0), (-4, size), (0, 2**62), (0, 0))
    head: dict[str, Any] = {
        TENSOR: {
            "dtype": kind,
            "shape": [case.pick(len(case.flat), 2**40, 0, -1)],
            "data_offsets": [begin, end],
        }
    }
    if case.draw(st.booleans()):
        head["other"] = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    text = json.dumps(head).encode()
    told = case.pick(len(text), 2**63 - 1, 2**40, 0, len(text) - 1, len(text) + 9)
    case.data = struct.pack("<Q", told) + text + encoded(case.flat, case.codec)[-size:]
    if (begin, end, told) == (0, size, len(text)):  # pragma: no cover - no pair above is the truth
        raise AssertionError


def bomb(case: Case) -> None:
    case.data = case.pick(
        gzip.compress(bytes(10_000_000)),
        struct.pack("<Q", 90) + b"[" * 90 + bytes(4 * len(case.flat)),
        struct.pack("<Q", 60_000) + b'{"a":' * 12_000,
        b"PK\x03\x04" + bytes(300),
    )


def executable(case: Case) -> None:
    case.data = case.pick(pickle.dumps({"flat": [1.0]}), b"cos\nsystem\n(S'true'\ntR.", b"#!/bin/sh\n")


def garbled(case: Case) -> None:
    case.data = case.draw(st.binary(max_size=400))


# how the payload is sealed and described


def sealed_for_others(case: Case) -> None:
    mine = case.round_.training.mailbox.me.public.recipient
    case.recipient = case.pick(
        mine, case.site.me.public.recipient, case.round_.sites["nyt"].me.public.recipient
    )


def misdescribed(case: Case) -> None:
    case.described |= case.pick(
        {"sha256": "0" * 64},
        {"sealed_sha256": "f" * 64},
        {"bytes": 7},
        {"sealed_bytes": 7},
        {"sealed_bytes": 2**50},
        {"bytes": 2**50},
    )


def elsewhere(case: Case) -> None:
    layout, run = case.site.mailbox.layout, case.round_.training.run
    case.described["key"] = case.pick(
        layout.payload("nyt", run, 1),
        layout.payload(HOSTILE, run, 2),
        layout.payload(HOSTILE, "run-0", 1),
        layout.plan(run, 1),
        f"{layout.site_prefix(HOSTILE)}../nyt/{run}/1/update.bin",
        "/etc/passwd",
        "",
        "%2e%2e/x",
    )


def overwritten(case: Case) -> None:
    key = case.site.mailbox.layout.payload(HOSTILE, case.round_.training.run, 1)
    data = case.draw(st.binary(max_size=200))
    case.after = lambda: case.site.store.put(key, data) and None


def vanished(case: Case) -> None:
    key = case.site.mailbox.layout.payload(HOSTILE, case.round_.training.run, 1)
    case.after = lambda: case.site.store.delete(key)


def huge(case: Case) -> None:
    key = case.site.mailbox.layout.payload(HOSTILE, case.round_.training.run, 1)
    case.after = lambda: case.site.store.put(key, bytes(case.round_.plan.most_bytes + 2**20)) and None


def crowd(case: Case) -> None:
    prefix = case.site.mailbox.layout.round_prefix(HOSTILE, case.round_.training.run, 1)
    name = case.pick("update.bin.2", "zzz", "a", "UPDATE.json", "more/update.json")
    case.site.store.put(prefix + name, b"x")


# what the message says


def foreign(case: Case) -> None:
    case.told |= case.pick(
        {"federation": "other"},
        {"receiver": "nyt"},
        {"run": "run-0"},
        {"run": None},
        {"round": 2},
        {"round": 0},
        {"roster_version": 0},
        {"roster_version": 99},
        {"plan_sha256": "0" * 64},
        {"steps": 10**6},
        {"payload": None},
        {"failed": "x" * 2000},
    )


def another(case: Case) -> None:
    """Another site's name, or another site's key."""
    other = case.round_.sites["nyt"].me
    if case.draw(st.booleans()):
        case.told["sender"] = "nyt"
        case.signer = case.pick(None, other)
    else:
        case.signer = case.pick(other, create_anonymous())


def create_anonymous() -> Identity:
    return Identity(HOSTILE, Ed25519PrivateKey.generate(), None)


def unknown_field(case: Case) -> None:
    name = case.pick("command", "import", "epsilon", "__class__", "schema_", "weight")

    def add(payload: bytes) -> bytes:
        return json.dumps(json.loads(payload) | {name: case.pick("os.system", 1, None, [])}).encode()

    case.raw = add


def absent_field(case: Case) -> None:
    name = case.pick("schema", "federation", "sender", "receiver", "plan_sha256", "roster_version")
    case.raw = lambda payload: json.dumps(
        {k: v for k, v in json.loads(payload).items() if k != name}
    ).encode()


def wrong_type(case: Case) -> None:
    name = case.pick("steps", "examples", "loss", "seconds", "payload", "round", "sender", "schema")
    value = case.pick("1", -1, 1.5, True, [], {}, 2**70, "\x00")  # noqa: FBT003 - a value
    if name in {"loss", "seconds"} and isinstance(value, float | int) and not isinstance(value, bool):
        value = "1.0"
    case.raw = lambda payload: json.dumps(json.loads(payload) | {name: value}).encode()


def no_number(case: Case) -> None:
    value = case.pick(b"NaN", b"Infinity", b"-Infinity", b"1e999", b"1" * 5000)
    case.raw = lambda payload: payload.replace(b'"loss":1.0', b'"loss":' + value)


def twice(case: Case) -> None:
    case.raw = lambda payload: payload[:-1] + b',"steps":1}'


def deep(case: Case) -> None:
    depth = case.pick(1000, 50_000)
    case.raw = lambda payload: payload[:-1] + b',"x":' + b"[" * depth + b"]" * depth + b"}"


def oversized(case: Case) -> None:
    case.raw = lambda payload: payload + b" " * Update.largest


def another_kind(case: Case) -> None:
    kind = case.pick("fedllm.answer/1", "fedllm.update/2", "fedllm.card/1", "", "fedllm.plan/1")
    case.raw = lambda payload: payload.replace(b"fedllm.update/1", kind.encode())


def changed_payload(outer: dict[str, Any]) -> None:
    inside = base64.b64decode(outer["payload"])
    outer["payload"] = base64.b64encode(inside + b" ").decode()


def no_signature(outer: dict[str, Any]) -> None:
    outer["signatures"] = []


def two_signatures(outer: dict[str, Any]) -> None:
    outer["signatures"] *= 2


def empty_signature(outer: dict[str, Any]) -> None:
    outer["signatures"][0]["sig"] = base64.b64encode(bytes(64)).decode()


def odd_key_id(outer: dict[str, Any]) -> None:
    outer["signatures"][0]["keyid"] = "0" * 63 + "g"


def other_type(outer: dict[str, Any]) -> None:
    outer["payloadType"] = "application/json"


def more_outside(outer: dict[str, Any]) -> None:
    outer["more"] = 1


def tampered(case: Case) -> None:
    """The envelope changed on its way."""
    spoil = case.pick(
        changed_payload, no_signature, two_signatures, empty_signature, odd_key_id, other_type, more_outside
    )

    def change(wrapped: bytes) -> bytes:
        outer = json.loads(wrapped)
        spoil(outer)
        return compact(outer)

    case.wire = change


def wrapped_anew(case: Case) -> None:
    """The same signed message in an envelope that is written in another way."""
    case.wire = case.pick(
        lambda wrapped: wrapped + b" ",
        lambda wrapped: json.dumps(json.loads(wrapped)).encode(),
        lambda wrapped: wrapped.replace(b'"signatures"', b'"signatures":[],"signatures"'),
    )


def cut(case: Case) -> None:
    share = case.draw(st.floats(0, 0.99))
    case.wire = lambda wrapped: wrapped[: int(share * len(wrapped))]


def flipped(case: Case) -> None:
    """One letter of the signed payload is another."""
    share = case.draw(st.floats(0.01, 0.9))

    def flip(wrapped: bytes) -> bytes:
        outer = json.loads(wrapped)
        text, at = outer["payload"], int(share * (len(outer["payload"]) - 4))
        outer["payload"] = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
        return compact(outer)

    case.wire = flip


def noise(case: Case) -> None:
    data = case.draw(st.binary(max_size=300))
    case.wire = lambda _: data


def two_updates(case: Case) -> None:
    """A second update, as validly signed, once the first one is pinned."""

    def again() -> None:
        case.site.take_part(case.round_.plan, case.round_.plan_sha256, scale=2e-4)

    case.after = again


INSIDE = [shape, longer, padded, another_codec, folded, dtype, named, several, infinite, enormous, nothing]
INSIDE += [lying_header, bomb, executable, garbled]
SEALED = [sealed_for_others, misdescribed, elsewhere, overwritten, vanished, huge, crowd, two_updates]
SAID = [foreign, another, unknown_field, absent_field, wrong_type, no_number, twice, deep, oversized]
SAID += [another_kind, wrapped_anew, tampered, cut, flipped, noise]
KINDS = INSIDE + SEALED + SAID

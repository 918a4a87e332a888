"""What a hostile coordinator signs and a hostile store shows: changes to messages that were honest."""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from fedllm.secure.envelope import PAYLOAD_TYPE
from fedllm.secure.identity import Identity

HASH, KEY = "0" * 64, "a" * 64
AGE = "age1" + "q" * 58  # looks like a recipient, and its checksum is wrong
GONE = object()  # the field is left out


def sign_raw(payload: bytes, identity: Identity) -> bytes:
    """Any bytes in an envelope that `identity` signed: no model of ours looked at them."""
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(identity.signing))
    return json.dumps(envelope.to_dict(), sort_keys=True, separators=(",", ":")).encode()


@dataclass
class Words:
    """What the coordinator is about to sign, field by field, and what becomes of the bytes afterwards."""

    head: dict[str, Any]
    plan: dict[str, Any]
    roster: dict[str, Any]
    flat: bytes  # inside the model
    recipients: list[str]  # of the model
    texts: list[tuple[str, Callable[[bytes], bytes]]] = field(default_factory=list)  # before it signs
    in_store: list[tuple[str, Callable[[bytes], bytes | None]]] = field(default_factory=list)  # after it


@dataclass(frozen=True)
class Mutation:
    """One hostile change, and how it is called when a test fails."""

    message: str  # head, plan, roster or model
    name: str
    apply: Callable[[Words], None]
    field: str = ""  # whose values are of one kind

    @property
    def kind(self) -> tuple[str, str]:
        """What another value would do as well for."""
        return self.message, self.field or self.name

    def __repr__(self) -> str:
        return f"{self.message}: {self.name}"


def _set(message: str, path: str, value: object) -> Mutation:
    def apply(words: Words) -> None:
        *parents, last = path.split(".")
        here = getattr(words, message)
        for part in parents:
            here = here.get(part)
            if not isinstance(here, dict):
                return  # another mutation was here
        if value is GONE:
            here.pop(last, None)
        else:
            here[last] = value

    told = "left out" if value is GONE else repr(value)[:60]
    return Mutation(message, f"{path} {told}", apply, path)


IN_ANY: dict[str, list[object]] = {
    "schema": ["fedllm.plan/2", "fedllm.card/1", 1, GONE],
    "federation": ["other", "../fed", None, GONE],
    "sender": ["movies", "everyone", GONE],
    "receiver": ["movies", "coordinator", GONE],
    "command": ["rm -rf /"],
    "__class__": ["os.system"],
    "import": ["os"],
    "roster_version": [-1, "5", 2**53, GONE],
}
IN_HEAD: dict[str, list[object]] = {
    "counter": [4, 0, -1, "6", 1.5, True, GONE],
    "epoch": [2, 0, -1, None, GONE],
    "state": ["paused", None, GONE],
    "plan_sha256": [None, HASH, "x", GONE],
    "run": ["run-b", "../run-a", None, GONE],
    "round": [0, 3, -2, "2"],
    "roster_version": [6],
}
IN_PLAN: dict[str, list[object]] = {
    "run": ["run-b", "../../run-a", "", None],
    "round": [0, 1, 3, -1, 2.5, "2", 2**53],
    "roster_version": [6, 10**9],
    "epoch": [2, 0, 4, 10**9, -1, GONE],
    "rounds": [0, 1, 10_001, "3", GONE],
    "deadline": [-1.0, 0.0, 1e9, 1e12, 1e300, "soon", None],
    "seed": [8, -1, 2**53, "7"],
    "sites": [
        [],
        ["movies"],
        ["amazon"],
        ["amazon", "amazon", "movies"],
        ["Amazon", "movies"],
        "amazon",
        GONE,
    ],
    "weights": [
        {},
        {"amazon": 1},
        {"amazon": 0, "movies": 1},
        {"amazon": -1, "movies": 1},
        {"amazon": 1, "movies": 2},
        {"amazon": 1, "movies": 1, "nyt": 1},
        {"amazon": 2**60, "movies": 2**60},
    ],
    "weighting": ["mine", None],
    "base_sha256": [HASH, "tiny", "/etc/passwd", None],
    "adapter.method": ["full", "os.system", None],
    "adapter.rank": [0, -1, 3, 8, 10**6, "2", 2.5],
    "adapter.alpha": [0, -1.0, "4"],
    "adapter.targets": [
        [],
        ["q_proj"],
        ["q_proj", "v_proj", "o_proj"],
        ["../../etc/passwd"],
        ["q_proj.__class__", "v_proj"],
        [".*"],
        ["lm_head"],
        ["embed_tokens"],
        ["x" * 10_000 + "\n2026 INFO all is well"],
        "all-linear",
    ],
    "adapter.layers": [[], [0], [99], [-1], "first", ["0"]],
    "adapter.base": ["/etc/passwd"],
    "layout_sha256": [HASH, "x"],
    "frozen_sha256": [HASH, None],
    "model.key": [
        "../../etc/passwd",
        "/etc/passwd",
        "file:///etc/passwd",
        "fed/sites/movies/card.json",
        f"fed/coordinator/run-b/models/{KEY}",
        "x" * 600,
    ],
    "model.sha256": [HASH, "x"],
    "model.sealed_sha256": [HASH],
    "model.sealed_bytes": [0, 1, 2**31, 2**52, -1],
    "model.bytes": [0, 1, 800, 2**52],
    "model.url": ["http://example.org/"],
    "most_bytes": [0, 1, 100, -1, GONE],
    "recipient": [AGE, "AGE-SECRET-KEY-1", "", None, GONE],
    "confidentiality": ["none", "he", None, GONE],
    "task.kind": ["image", "exec", "chat"],
    "task.fields": [
        {"text": "text"},
        {"text": "absent", "label": "label"},
        {"text": "text", "label": "__class__"},
        {"text": "../../etc/passwd", "label": "label"},
        {str(n): "text" for n in range(2000)} | {"text": "text", "label": "label"},
    ],
    "task.labels": [
        {},
        {"positive": " positive"},
        {"positive": " same", "negative": " same"},
        {"x": " positive", "y": " negative"},
        {"positive": "", "negative": ""},
    ],
    "task.template": ["{secret} {text}", "x" * 30_000, 7, None],
    "task.max_length": [0, 4096, 10**9],
    "task.code": ["import os"],
    "local.steps": [0, -1, 10**9, "3"],
    "local.lr": [0.0, -1.0, "0.1", None],
    "local.batch_size": [0, 10**6],
    "local.algorithm": ["scaffold", "__import__('os')"],
    "local.prox_mu": [1.0],
    "local.hook": ["os.system"],
}
IN_ROSTER: dict[str, list[object]] = {
    "roster_version": [4, 0],
    "sites": [[], "amazon", {}, GONE],
    "coordinator": [None, GONE, {"name": "coordinator", "verify": KEY, "recipient": AGE}],
    "round": [-1],
}


def _in_the_fields() -> Iterator[Mutation]:
    for message, fields in (("head", IN_HEAD), ("plan", IN_PLAN), ("roster", IN_ROSTER)):
        for path, values in (IN_ANY | fields).items():
            yield from (_set(message, path, value) for value in values)


def _members(name: str, change: Callable[[list[dict[str, Any]]], object]) -> Iterator[Mutation]:
    """A change to the roster's sites, in the version that was seen and in the next one."""
    for version in (5, 6):

        def apply(words: Words, version: int = version) -> None:
            sites = words.roster.get("sites")
            if isinstance(sites, list) and len(sites) > 1:
                words.roster["sites"] = sites = [dict(site) for site in sites]
                change(sites)
                words.roster["roster_version"] = version

        yield Mutation("roster", f"{name}, version {version}", apply)


def _in_the_roster() -> Iterator[Mutation]:
    yield from _members("without this site", lambda sites: sites.pop(0))
    yield from _members("with another key of this site", lambda sites: sites[0].update(verify=KEY))
    yield from _members("with another lock of this site", lambda sites: sites[0].update(recipient=AGE))
    yield from _members("this site twice", lambda sites: sites.append(dict(sites[0])))
    yield from _members("this site's name twice", lambda sites: sites.append(sites[1] | {"name": "amazon"}))
    yield from _members("one key under two names", lambda sites: sites.append(sites[1] | {"name": "twin"}))
    yield from _members("a key that is no key", lambda sites: sites[1].update(verify="z"))
    yield from _members("an unknown field", lambda sites: sites[1].update(trusted=True))


def _in_the_model() -> Iterator[Mutation]:
    def inside(name: str, change: Callable[[bytes], bytes]) -> Mutation:
        return Mutation("model", name, lambda words: setattr(words, "flat", change(words.flat)))

    yield inside("not a number", lambda flat: flat[:-4] + b"\x00\x00\xc0\x7f")
    yield inside("infinite", lambda flat: flat[:-4] + b"\x00\x00\x80\x7f")
    yield inside("one number short", lambda flat: flat[:-4])
    yield inside("a header that lies", lambda flat: flat.replace(b"F32", b"F16"))
    yield inside("a header without end", lambda flat: b"\xff" * 8 + flat[8:])
    yield inside("pickle", lambda flat: b"\x80\x04cos\nsystem\n".ljust(len(flat), b"."))
    yield Mutation("model", "sealed for others", lambda words: words.recipients.pop())


def _in_the_text() -> Iterator[Mutation]:
    """JSON that no model of ours would write, signed all the same."""

    def said(message: str, name: str, change: Callable[[bytes], bytes]) -> Mutation:
        return Mutation(message, name, lambda words: words.texts.append((message, change)))

    for message in ("head", "plan", "roster"):
        yield said(message, "a key twice", lambda text: b'{"run":"a","run":"a",' + text[1:])
        yield said(message, "NaN", lambda text: text[:-1] + b',"epoch":NaN}')
        yield said(message, "a number out of range", lambda text: text[:-1] + b',"deadline2":1e999}')
        yield said(message, "nested deeply", lambda _text: b"[" * 50_000 + b"]" * 50_000)
        yield said(message, "not UTF-8", lambda text: b"\xff\xfe" + text)
        yield said(message, "a list", lambda text: b"[" + text + b"]")
        yield said(message, "nothing", lambda _text: b"")


def in_the_store(others: dict[str, bytes], stranger: Identity) -> Iterator[Mutation]:
    """What the store can do without any key of the coordinator's.

    Args:
        others: older objects, and objects of other kinds, to be shown in a message's place.
        stranger: signs what the coordinator should have signed.
    """

    def shown(message: str, name: str, change: Callable[[bytes], bytes | None]) -> Mutation:
        return Mutation(message, name, lambda words: words.in_store.append((message, change)))

    for message in ("head", "plan", "roster", "model"):
        yield shown(message, "gone", lambda _data: None)
        yield shown(message, "empty", lambda _data: b"")
        yield shown(message, "cut in half", lambda data: data[: len(data) // 2])
        yield shown(message, "its last byte cut off", lambda data: data[:-1])
        yield shown(message, "huge", lambda data: data + b" " * (5 << 20))
        yield shown(message, "noise", lambda data: bytes(255 - byte for byte in data))
        for name, other in others.items():
            yield shown(message, f"replaced by {name}", lambda _data, other=other: other)
    for message in ("head", "plan", "roster"):
        yield shown(message, "a byte changed", _tampered)
        yield shown(message, "signed by a site", lambda data: sign_raw(_payload(data), stranger))
        yield shown(message, "signed by nobody", lambda data: _outer(data, signatures=[]))
        yield shown(
            message, "signed twice", lambda data: _outer(data, signatures=json.loads(data)["signatures"] * 2)
        )
        yield shown(message, "wrapped otherwise", lambda data: data.replace(b",", b", ") or b" ")
        yield shown(message, "of another type", lambda data: _outer(data, payloadType="application/json"))


def _payload(envelope: bytes) -> bytes:
    try:
        return base64.b64decode(json.loads(envelope)["payload"])
    except (ValueError, KeyError):
        return b"{}"  # another mutation was here


def _tampered(envelope: bytes) -> bytes:
    payload = _payload(envelope)
    changed = payload[:-2] + bytes([payload[-2] ^ 1]) + payload[-1:]
    return _outer(envelope, payload=base64.b64encode(changed).decode())


def _outer(envelope: bytes, **changes: object) -> bytes:
    try:
        return json.dumps(json.loads(envelope) | changes, sort_keys=True, separators=(",", ":")).encode()
    except (ValueError, TypeError):
        return envelope[:-1]  # another mutation was here


SIGNED = [*_in_the_fields(), *_in_the_roster(), *_in_the_model(), *_in_the_text()]

"""Envelopes of the test vectors: some that are taken, and many that are refused, each for one reason."""

import base64
import json
from typing import Any

from tests.protocol import independent as ind
from tests.protocol.vector_keys import NOTE, signed

HEAD = {
    "federation": "example",
    "sender": "amazon",
    "receiver": "coordinator",
    "run": "20260101-000000-abcd",
    "round": 2,
    "roster_version": 3,
}
PLAN_SHA256 = "5a" * 32


def answer(**changes: object) -> dict[str, object]:
    """A message from amazon to the coordinator."""
    fields: dict[str, object] = {
        "schema": "fedllm.answer/1",
        "plan_sha256": PLAN_SHA256,
        "decision": "less",
        "steps": 10,
        "reason": "höchstens 10 Schritte",
    }
    return HEAD | fields | changes


def update() -> dict[str, object]:
    """A message with nested fields, nulls and numbers that are not whole."""
    return HEAD | {
        "schema": "fedllm.update/1",
        "plan_sha256": PLAN_SHA256,
        "failed": None,
        "payload": {
            "key": "example/sites/amazon/20260101-000000-abcd/2/update.bin",
            "sealed_sha256": "01" * 32,
            "sealed_bytes": 1234,
            "sha256": "02" * 32,
            "bytes": 1000,
        },
        "steps": 10,
        "examples": 160,
        "loss": 0.6931471805599453,
        "seconds": 1e-07,
        "ledger": [],
    }


def accepted(message: dict[str, Any], signer: str = "amazon") -> dict[str, object]:
    """A message with its payload's bytes, its signature, its envelope and hashes."""
    payload = ind.compact(message)
    envelope = signed(payload, signer)
    return {
        "message": message,
        "payload": payload.decode(),
        "signed_bytes_sha256": ind.sha256(ind.pae(payload)),
        "signature": base64.b64decode(json.loads(envelope)["signatures"][0]["sig"]).hex(),
        "envelope": envelope.decode(),
        "envelope_sha256": ind.sha256(envelope),
    }


def envelopes() -> dict[str, object]:
    """Messages that are taken, and envelopes that are refused by who expects an answer of `HEAD`."""
    refused = [{"why": why, "envelope": data.decode()} for why, data in _refused()]
    return {
        "note": NOTE,
        "sender": "amazon",
        "expected": HEAD,
        "accepted": [accepted(answer()), accepted(update())],
        "refused": refused,
    }


def _refused() -> list[tuple[str, bytes]]:
    good = ind.compact(answer())
    outer = json.loads(signed(good))
    signature = outer["signatures"][0]

    def spoiled(old: str, new: str) -> bytes:
        text = good.decode()
        assert old in text
        return signed(text.replace(old, new).encode())

    def wrapped(**changes: object) -> bytes:
        return ind.compact(outer | changes)

    curved = json.loads(signed(ind.compact(answer(reason=">>>???>>>???"))))
    url_safe = curved["payload"].replace("+", "-").replace("/", "_")
    assert url_safe != curved["payload"]
    return [
        ("signed by another party", signed(good, "movies")),
        (
            "signed by another party under this one's key id",
            wrapped(
                signatures=[
                    json.loads(signed(good, "movies"))["signatures"][0] | {"keyid": signature["keyid"]}
                ]
            ),
        ),
        ("the payload was changed after it was signed", wrapped(payload=b64(good.replace(b"10", b"11")))),
        ("another payload type", signed(good, payload_type="application/json")),
        ("another payload type, signed as the right one", wrapped(payloadType="application/json")),
        ("no signature", wrapped(signatures=[])),
        ("two signatures", wrapped(signatures=[signature, signature])),
        ("white space after the envelope", signed(good) + b" "),
        ("white space within the envelope", signed(good).replace(b",", b", ", 1)),
        ("the envelope's fields in another order", _reordered(outer)),
        (
            "base64 that is not canonical",
            wrapped(signatures=[signature | {"sig": _untidy(signature["sig"])}]),
        ),
        ("an unknown field in the envelope", wrapped(extra=1)),
        ("base64 of the URL-safe alphabet", ind.compact(curved | {"payload": url_safe})),
        ("base64 without padding", wrapped(signatures=[signature | {"sig": signature["sig"].rstrip("=")}])),
        ("an unknown field", spoiled('"steps":10', '"extra":1,"steps":10')),
        ("a field is missing", spoiled('"decision":"less",', "")),
        ("the schema is missing", spoiled('"schema":"fedllm.answer/1",', "")),
        ("another version of the schema", spoiled("fedllm.answer/1", "fedllm.answer/2")),
        ("another kind of message", signed(ind.compact(update()))),
        ("a field twice", spoiled('"steps":10', '"steps":10,"steps":11')),
        ("a field twice, once in escapes", spoiled('"steps":10', '"steps":10,"st\\u0065ps":11')),
        ("a whole number as text", spoiled('"steps":10', '"steps":"10"')),
        ("a whole number with a fraction", spoiled('"steps":10', '"steps":10.0')),
        ("a whole number below its range", spoiled('"steps":10', '"steps":-1')),
        ("a whole number above its range", spoiled('"steps":10', '"steps":9007199254740992')),
        ("true for a number", spoiled('"steps":10', '"steps":true')),
        ("NaN", spoiled('"steps":10', '"steps":NaN')),
        ("a number that overflows", spoiled('"steps":10', '"steps":1e999')),
        ("a run that is a path", spoiled('"run":"20260101', '"run":"../20260101')),
        ("half of a surrogate pair", spoiled('"reason":"', '"reason":"\\ud800')),
        ("text after the message", signed(good + b"{}")),
        ("a byte order mark", signed(b"\xef\xbb\xbf" + good)),
        ("bytes that are not UTF-8", signed(good.decode().encode("latin-1"))),
        ("for another federation", signed(ind.compact(answer(federation="other")))),
        ("in another's name", signed(ind.compact(answer(sender="movies")))),
        ("for another receiver", signed(ind.compact(answer(receiver="movies")))),
        ("of another run", signed(ind.compact(answer(run="20260101-000000-0000")))),
        ("of another round", signed(ind.compact(answer(round=1)))),
        ("of another roster", signed(ind.compact(answer(roster_version=2)))),
    ]


def b64(data: bytes) -> str:
    """Base64 as envelopes have it."""
    return base64.b64encode(data).decode()


def _reordered(outer: dict[str, object]) -> bytes:
    """The same envelope, its fields from the last to the first."""
    return json.dumps(dict(reversed(outer.items())), separators=(",", ":")).encode()


def _untidy(text: str) -> str:
    """The same bytes in base64 whose spare bits are not zero: 64 bytes leave four of them."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    spoilt = text[:-3] + letters[letters.index(text[-3]) + 1] + "=="
    assert base64.b64decode(spoilt) == base64.b64decode(text)
    return spoilt

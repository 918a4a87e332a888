"""Envelopes: what the expected party signed for this place and time is read; all else is refused."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # re-exported without `as`

from fedllm.config.federation import AdapterConfig, LocalConfig, TaskConfig
from fedllm.errors import IdentityError, RefusedError
from fedllm.protocol.messages import Answer, Closed, Message, Plan, Sealed, Update, Verdict
from fedllm.secure.envelope import PAYLOAD_TYPE, open_envelope, sign
from fedllm.secure.identity import Identity, create_identity

HASH = "ab" * 32


@pytest.fixture(scope="module")
def amazon(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return create_identity(tmp_path_factory.mktemp("amazon"), "amazon")


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return create_identity(tmp_path_factory.mktemp("coordinator"), "coordinator")


def _answer(**changes: object) -> Answer:
    fields: dict[str, Any] = {
        "federation": "fed",
        "sender": "amazon",
        "receiver": "coordinator",
        "run": "r1",
        "round": 2,
        "roster_version": 3,
        "plan_sha256": HASH,
        "decision": "accept",
        "steps": 15,
    }
    return Answer(**(fields | changes))


def _compact(outer: object) -> bytes:
    """The one encoding of an envelope."""
    return json.dumps(outer, sort_keys=True, separators=(",", ":")).encode()


def _signed(payload: bytes, identity: Identity, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """An honest signature over whatever bytes."""
    envelope = Envelope(payload, payload_type, {})
    envelope.sign(CryptoSigner(identity.signing))
    return _compact(envelope.to_dict())


def _payload(**changes: object) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(_answer().model_dump_json(by_alias=True))
    return fields | changes


def _open(data: bytes, identity: Identity, **changes: Any) -> Answer:  # noqa: ANN401 - any of the arguments
    wanted: dict[str, Any] = {
        "federation": "fed",
        "sender": "amazon",
        "receiver": "coordinator",
        "run": "r1",
        "round": 2,
        "roster_version": 3,
    }
    return open_envelope(data, Answer, identity.public, **(wanted | changes))


def test_what_is_signed_is_read(amazon: Identity) -> None:
    assert _open(sign(_answer(), amazon), amazon) == _answer()


def test_the_same_message_gives_the_same_bytes(amazon: Identity) -> None:
    assert sign(_answer(), amazon) == sign(_answer(), amazon)


def test_large_nested_messages_come_back_equal(coordinator: Identity) -> None:
    sealed = Sealed(
        key="fed/coordinator/r1/models/x", sealed_sha256=HASH, sealed_bytes=9, sha256=HASH, bytes=5
    )
    head: dict[str, Any] = {
        "federation": "fed",
        "sender": "coordinator",
        "receiver": "everyone",
        "run": "r1",
        "round": 1,
        "roster_version": 1,
    }
    plan = Plan(
        **head,
        epoch=1,
        rounds=3,
        deadline=1.5,
        seed=7,
        sites=("amazon", "movies"),
        weights={"amazon": 1, "movies": 2},
        weighting="equal",
        base_sha256=HASH,
        adapter=AdapterConfig(layers=(1, 2)),
        layout_sha256=HASH,
        frozen_sha256=HASH,
        model=sealed,
        task=TaskConfig(labels={"p": " täglich", "n": "\u2028"}),
        local=LocalConfig(lr=3),
        most_bytes=10,
        recipient=coordinator.public.recipient,
        confidentiality="plain",
    )
    verdict = Verdict(
        site="amazon", accepted=True, checks={"norm": "pass"}, privacy="no DP configured", norm=0.1
    )
    closed = Closed(**head, plan_sha256=HASH, counted=(), verdicts=(verdict,))
    for message in (plan, closed):
        data = sign(message, coordinator)
        found: Message = open_envelope(
            data, type(message), coordinator.public, federation="fed", sender="coordinator", receiver="movies"
        )
        assert found == message


def test_the_envelope_is_plain_dsse(amazon: Identity) -> None:
    """Verified here without the library under test: PAE by hand and the bare Ed25519 check."""
    outer = json.loads(sign(_answer(), amazon))
    assert set(outer) == {"payload", "payloadType", "signatures"}
    payload = base64.b64decode(outer["payload"])
    pae = b"DSSEv1 27 application/vnd.fedllm+json %d %b" % (len(payload), payload)
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(amazon.public.verify))
    key.verify(base64.b64decode(outer["signatures"][0]["sig"]), pae)


def test_pre_authentication_encoding_is_the_specifications() -> None:
    # DSSE v1, protocol.md, "Test vectors"
    envelope = Envelope(b"hello world", "http://example.com/HelloWorld", {})
    assert envelope.pae() == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_a_changed_payload_is_refused_before_it_is_parsed(amazon: Identity) -> None:
    outer = json.loads(sign(_answer(), amazon))
    outer["payload"] = base64.b64encode(b"{ not even json").decode()
    with pytest.raises(RefusedError, match="signature is not amazon's"):
        _open(_compact(outer), amazon)


def test_every_changed_byte_of_the_payload_is_refused(amazon: Identity) -> None:
    outer = json.loads(sign(_answer(), amazon))
    payload = base64.b64decode(outer["payload"])
    for place in range(len(payload)):
        changed = bytearray(payload)
        changed[place] ^= 1
        outer["payload"] = base64.b64encode(changed).decode()
        with pytest.raises(RefusedError, match="signature"):
            _open(_compact(outer), amazon)


def test_another_partys_signature_is_refused_whatever_key_id_it_claims(
    amazon: Identity, coordinator: Identity
) -> None:
    forged = json.loads(_signed(json.dumps(_payload()).encode(), coordinator))
    with pytest.raises(RefusedError, match="signature"):
        _open(_compact(forged), amazon)
    forged["signatures"][0]["keyid"] = json.loads(sign(_answer(), amazon))["signatures"][0]["keyid"]
    with pytest.raises(RefusedError, match="signature"):
        _open(_compact(forged), amazon)


def test_a_signature_for_another_payload_type_is_refused(amazon: Identity) -> None:
    payload = json.dumps(_payload()).encode()
    other = _signed(payload, amazon, "application/vnd.in-toto+json")
    with pytest.raises(RefusedError, match="payload type"):
        _open(other, amazon)
    relabelled = other.replace(b"application/vnd.in-toto+json", PAYLOAD_TYPE.encode())
    with pytest.raises(RefusedError, match="signature"):
        _open(relabelled, amazon)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("federation", "other"),
        ("receiver", "movies"),
        ("run", "r2"),
        ("round", 3),
        ("roster_version", 4),
    ],
)
def test_a_message_for_elsewhere_is_refused(amazon: Identity, name: str, value: object) -> None:
    data = sign(_answer(), amazon)
    with pytest.raises(RefusedError, match=name):
        _open(data, amazon, **{name: value})


def test_a_sender_cannot_speak_for_another(amazon: Identity, coordinator: Identity) -> None:
    with pytest.raises(IdentityError, match="cannot sign"):
        sign(_answer(sender="movies"), amazon)
    forged = _signed(json.dumps(_payload(sender="movies")).encode(), amazon)
    with pytest.raises(RefusedError, match="sender is 'movies'"):
        _open(forged, amazon)
    with pytest.raises(RefusedError, match="keys at hand"):
        _open(sign(_answer(), amazon), coordinator)


def test_what_is_said_to_everyone_is_read_by_anyone(amazon: Identity) -> None:
    data = sign(_answer(receiver="everyone"), amazon)
    assert _open(data, amazon, receiver="movies").receiver == "everyone"


def test_a_message_of_another_kind_is_refused(amazon: Identity) -> None:
    with pytest.raises(RefusedError, match="no update"):
        open_envelope(sign(_answer(), amazon), Update, amazon.public, federation="fed", sender="amazon")


def test_an_oversized_envelope_is_refused_unread_and_unsent(amazon: Identity) -> None:
    with pytest.raises(RefusedError, match="bytes are more than"):
        _open(b" " * (Answer.largest + 1), amazon)

    class Small(Answer):
        largest = 300

    with pytest.raises(RefusedError, match="300"):
        sign(Small(**_answer().model_dump()), amazon)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda text: text.replace('"steps": 15', '"steps": 15, "extra": 1'), "extra"),
        (lambda text: text.replace('"steps": 15', '"steps": "15"'), "steps"),
        (lambda text: text.replace('"steps": 15', '"steps": 15.5'), "steps"),
        (lambda text: text.replace('"steps": 15', '"steps": -1'), "steps"),
        (lambda text: text.replace('"steps": 15', '"steps": true'), "steps"),
        (lambda text: text.replace('"steps": 15', '"steps": NaN'), "NaN"),
        (lambda text: text.replace('"steps": 15', '"steps": Infinity'), "Infinity"),
        (lambda text: text.replace('"steps": 15', '"steps": 1e999'), "out of range"),
        (lambda text: text.replace('"steps": 15', '"steps": 15, "steps": 16'), "twice"),
        (lambda text: text.replace('"steps": 15', '"steps": 15, "st\\u0065ps": 16'), "twice"),
        (lambda text: text.replace('"steps": 15', f'"steps": {"9" * 5000}'), "strict JSON"),
        (lambda text: text.replace('"run": "r1"', '"run": "../r1"'), "run"),
        (lambda text: text.replace("fedllm.answer/1", "fedllm.answer/2"), "schema"),
        (lambda text: text.replace('"schema"', '"schema_"'), "schema"),
        (lambda text: text + " {}", "strict JSON"),
        (lambda text: text.replace('"schema": "fedllm.answer/1", ', ""), "schema is missing"),
        (lambda _: "[" * 16_000, "nested|strict JSON"),
        (lambda _: "[" * 17_000, "no answer: more than 16384 values"),
        (
            lambda text: text[:-1] + ', "extra": [' + "[]," * 9_000 + "[]]}",
            "no answer: more than 16384 values",
        ),
        (
            lambda text: text[:-1] + "".join(f', "k{n}": 0' for n in range(10_001)) + "}",
            "more than 10000 fields",
        ),
        (lambda _: "[]", "schema is missing"),
        (lambda _: "", "strict JSON"),
    ],
)
def test_a_signed_message_that_is_not_strict_is_refused(
    amazon: Identity, spoil: Callable[[str], str], reason: str
) -> None:
    text = json.dumps(_payload())
    _open(_signed(text.encode(), amazon), amazon)
    spoiled = spoil(text)
    assert spoiled != text
    with pytest.raises(RefusedError, match=reason):
        _open(_signed(spoiled.encode(), amazon), amazon)


def test_bytes_that_are_no_unicode_are_refused(amazon: Identity) -> None:
    with pytest.raises(RefusedError, match="strict JSON"):
        _open(_signed(b'{"reason": "\xff"}', amazon), amazon)


@pytest.mark.parametrize("field", ["loss", "seconds"])
@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused(amazon: Identity, field: str, number: str) -> None:
    update = Update(
        federation="fed",
        sender="amazon",
        receiver="coordinator",
        roster_version=1,
        plan_sha256=HASH,
        loss=1.5,
        seconds=1.5,
    )
    text = json.dumps(json.loads(update.model_dump_json(by_alias=True)))
    spoiled = text.replace(f'"{field}": 1.5', f'"{field}": {number}')
    assert spoiled != text
    with pytest.raises(RefusedError):
        open_envelope(
            _signed(spoiled.encode(), amazon), Update, amazon.public, federation="fed", sender="amazon"
        )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda outer: outer | {"extra": 1},
        lambda outer: outer | {"signatures": []},
        lambda outer: outer | {"signatures": outer["signatures"] * 2},
        lambda outer: outer | {"payload": outer["payload"] + "!"},
        lambda outer: outer | {"payload": 7},
        lambda outer: {"payload": outer["payload"]},
        lambda outer: [outer],
        lambda _: None,
    ],
)
def test_what_is_no_envelope_is_refused(amazon: Identity, spoil: Callable[[Any], object]) -> None:
    outer = json.loads(sign(_answer(), amazon))
    with pytest.raises(RefusedError, match="no DSSE envelope"):
        _open(_compact(spoil(outer)), amazon)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"<html>", b"[" * 100_000])
def test_noise_is_refused(amazon: Identity, data: bytes) -> None:
    with pytest.raises(RefusedError, match="no DSSE envelope"):
        _open(data, amazon)


def test_no_reason_repeats_what_was_sent(amazon: Identity) -> None:
    secret = "a secret of the site"
    data = _signed(json.dumps(_payload(steps=secret)).encode(), amazon)
    with pytest.raises(RefusedError) as caught:
        _open(data, amazon)
    assert secret not in str(caught.value)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda data: data + b" ",
        lambda data: json.dumps(json.loads(data)).encode(),
        lambda data: data.replace(b'"payloadType"', b'"payloadType":"x","payloadType"'),
    ],
)
def test_one_message_is_wrapped_in_one_way_alone(wrap: Callable[[bytes], bytes], amazon: Identity) -> None:
    """Else whoever holds the store could show two envelopes of one signed message."""
    data = sign(_answer(), amazon)
    assert wrap(data) != data
    with pytest.raises(RefusedError, match="canonical encoding"):
        _open(wrap(data), amazon)

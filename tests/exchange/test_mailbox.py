"""What a mailbox lets in: bytes that were signed, sealed for its owner, and said for this place and time."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from fedllm.errors import AccessDeniedError, ExchangeError, ObjectNotFoundError, RefusedError
from fedllm.exchange.directory_store import DirectoryStore
from fedllm.exchange.mailbox import Mailbox, seal_to_file
from fedllm.exchange.store import ObjectInfo
from fedllm.protocol.layout import Layout
from fedllm.protocol.messages import Answer, Sealed
from fedllm.secure.envelope import sign
from fedllm.secure.identity import Identity, create_identity

LAYOUT = Layout("fed")
RUN = "run-a"
KEY = LAYOUT.answer("amazon", RUN, 1)
PAYLOAD = LAYOUT.payload("amazon", RUN, 1)
INSIDE = b"sixteen bytes ok" * 64


@pytest.fixture
def parties(tmp_path: Path) -> dict[str, Identity]:
    return {name: create_identity(tmp_path / name, name) for name in ("coordinator", "amazon", "movies")}


@pytest.fixture
def mailbox(directory_store: DirectoryStore, parties: dict[str, Identity]) -> Mailbox:
    """The coordinator's."""
    return Mailbox(directory_store, LAYOUT, parties["coordinator"])


def answer(**changes: Any) -> Answer:  # noqa: ANN401
    said: dict[str, Any] = {
        "federation": "fed",
        "sender": "amazon",
        "receiver": "coordinator",
        "run": RUN,
        "round": 1,
        "roster_version": 1,
        "plan_sha256": "0" * 64,
        "decision": "accept",
        "steps": 3,
    }
    return Answer(**said | changes)


def sent(mailbox: Mailbox, recipient: Identity, folder: Path, inside: bytes = INSIDE) -> Sealed:
    """A payload as amazon would send it, uploaded."""
    path = folder / "sealed"
    sealed = seal_to_file(inside, [recipient.public.recipient], PAYLOAD, path)
    mailbox.send_payload(path, sealed)
    return sealed


def test_a_payload_that_is_as_signed_is_opened(
    mailbox: Mailbox, parties: dict[str, Identity], tmp_path: Path
) -> None:
    assert mailbox.fetch_payload(sent(mailbox, parties["coordinator"], tmp_path)) == INSIDE


def test_sealing_to_a_file_leaves_exactly_the_described_bytes_and_no_draft(
    parties: dict[str, Identity], tmp_path: Path
) -> None:
    path = tmp_path / "work" / "round.sealed"
    sealed = seal_to_file(INSIDE, [parties["coordinator"].public.recipient], PAYLOAD, path)
    on_disk = path.read_bytes()
    assert sealed == Sealed(
        key=PAYLOAD,
        sealed_sha256=hashlib.sha256(on_disk).hexdigest(),
        sealed_bytes=len(on_disk),
        sha256=hashlib.sha256(INSIDE).hexdigest(),
        bytes=len(INSIDE),
    )
    assert [file.name for file in path.parent.iterdir()] == ["round.sealed"]


def test_a_payload_swapped_for_another_of_its_sender_is_refused(
    mailbox: Mailbox, parties: dict[str, Identity], tmp_path: Path
) -> None:
    signed = sent(mailbox, parties["coordinator"], tmp_path)
    sent(mailbox, parties["coordinator"], tmp_path, b"smaller")
    with pytest.raises(RefusedError, match="bytes are not those that were signed"):
        mailbox.fetch_payload(signed)


@pytest.mark.parametrize("kept", [0, 1, -1])
def test_a_truncated_payload_is_refused(
    mailbox: Mailbox, parties: dict[str, Identity], tmp_path: Path, kept: int
) -> None:
    sealed = sent(mailbox, parties["coordinator"], tmp_path)
    whole = mailbox.store.get(PAYLOAD, limit=10_000)
    mailbox.store.put(PAYLOAD, whole[:kept])
    with pytest.raises(RefusedError, match="bytes are not those that were signed"):
        mailbox.fetch_payload(sealed)


def test_a_payload_sealed_for_someone_else_is_refused(
    mailbox: Mailbox, parties: dict[str, Identity], tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match="not sealed for coordinator"):
        mailbox.fetch_payload(sent(mailbox, parties["movies"], tmp_path))


def test_a_payload_larger_than_its_signed_size_is_refused(
    mailbox: Mailbox, parties: dict[str, Identity], tmp_path: Path
) -> None:
    sealed = sent(mailbox, parties["coordinator"], tmp_path)
    mailbox.store.put(PAYLOAD, mailbox.store.get(PAYLOAD, limit=10_000) + b"x")
    with pytest.raises(RefusedError, match=rf"larger than {sealed.sealed_bytes} bytes"):
        mailbox.fetch_payload(sealed)


def test_a_signed_size_above_the_callers_limit_is_refused_before_anything_is_fetched(
    mailbox: Mailbox,
) -> None:
    sealed = Sealed(key=PAYLOAD, sealed_sha256="0" * 64, sealed_bytes=1001, sha256="0" * 64, bytes=900)
    with pytest.raises(RefusedError, match="payload of 1001 bytes, at most 1000 are allowed"):
        mailbox.fetch_payload(sealed, limit=1000)


@pytest.mark.parametrize("lie", [{"sha256": "0" * 64}, {"bytes": len(INSIDE) - 1}])
def test_sealed_bytes_that_are_right_around_something_else_are_refused(
    mailbox: Mailbox, parties: dict[str, Identity], tmp_path: Path, lie: dict[str, Any]
) -> None:
    sealed = sent(mailbox, parties["coordinator"], tmp_path).model_copy(update=lie)
    with pytest.raises(RefusedError, match="the sealed content is not what was signed"):
        mailbox.fetch_payload(sealed)


def test_a_payload_that_is_not_there_is_not_refused_but_not_found(mailbox: Mailbox) -> None:
    sealed = Sealed(key=PAYLOAD, sealed_sha256="0" * 64, sealed_bytes=10, sha256="0" * 64, bytes=1)
    with pytest.raises(ObjectNotFoundError):
        mailbox.fetch_payload(sealed)


def test_a_message_is_read_with_the_hash_of_its_envelope(
    mailbox: Mailbox, parties: dict[str, Identity]
) -> None:
    envelope = sign(answer(), parties["amazon"])
    mailbox.store.put(KEY, envelope)
    received = mailbox.read(KEY, Answer, parties["amazon"].public, run=RUN, number=1)
    assert received.message == answer()
    assert (received.envelope, received.sha256) == (envelope, hashlib.sha256(envelope).hexdigest())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"run": "run-b"}, "run is 'run-b', not 'run-a'"),
        ({"round": 2}, "round is 2, not 1"),
        ({"sender": "movies"}, "sender is 'movies', not 'amazon'"),
        ({"receiver": "movies"}, "receiver is 'movies', not 'coordinator'"),
        ({"federation": "other"}, "federation is 'other', not 'fed'"),
    ],
)
def test_a_message_said_for_another_place_is_refused(
    mailbox: Mailbox, parties: dict[str, Identity], changes: dict[str, Any], reason: str
) -> None:
    amazon = parties["amazon"]
    message = answer(**changes)
    named = Identity(message.sender, amazon.signing, amazon.opening)  # amazon's keys, whatever it says
    mailbox.store.put(KEY, sign(message, named))
    with pytest.raises(RefusedError, match=reason):
        mailbox.read(KEY, Answer, amazon.public, run=RUN, number=1)


def test_a_message_signed_with_another_sites_keys_is_refused(
    mailbox: Mailbox, parties: dict[str, Identity]
) -> None:
    impostor = Identity("amazon", parties["movies"].signing, parties["movies"].opening)
    mailbox.store.put(KEY, sign(answer(), impostor))
    with pytest.raises(RefusedError, match="signature is not amazon's"):
        mailbox.read(KEY, Answer, parties["amazon"].public, run=RUN, number=1)


def test_an_object_larger_than_any_message_of_its_kind_is_refused_unread(
    mailbox: Mailbox, parties: dict[str, Identity]
) -> None:
    mailbox.store.put(KEY, b" " * (Answer.largest + 1))
    with pytest.raises(RefusedError, match=f"larger than {Answer.largest} bytes"):
        mailbox.read(KEY, Answer, parties["amazon"].public)


@pytest.mark.parametrize("error", [AccessDeniedError, ExchangeError])
def test_a_store_that_denies_says_that_nothing_is_there_and_one_that_is_away_says_nothing(
    mailbox: Mailbox,
    parties: dict[str, Identity],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[ExchangeError],
) -> None:
    assert not mailbox.has(PAYLOAD)
    sent(mailbox, parties["coordinator"], tmp_path)
    assert mailbox.has(PAYLOAD)

    def failing(_self: DirectoryStore, key: str) -> ObjectInfo:
        raise error(key)

    monkeypatch.setattr(DirectoryStore, "stat", failing)
    if error is AccessDeniedError:
        assert not mailbox.has(PAYLOAD)
    else:
        with pytest.raises(ExchangeError):
            mailbox.has(PAYLOAD)


def test_nothing_there_is_found_as_none(mailbox: Mailbox, parties: dict[str, Identity]) -> None:
    assert mailbox.find(KEY, Answer, parties["amazon"].public, run=RUN, number=1) is None


def test_finding_something_wrong_is_refused_and_not_taken_for_nothing(
    mailbox: Mailbox, parties: dict[str, Identity]
) -> None:
    mailbox.store.put(KEY, b"{}")
    with pytest.raises(RefusedError, match="no DSSE envelope"):
        mailbox.find(KEY, Answer, parties["amazon"].public, run=RUN, number=1)

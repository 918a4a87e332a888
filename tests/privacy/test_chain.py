"""What a coordinator finds wrong with a chain that a site shows."""

import hashlib
import json
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError

from fedllm.errors import LedgerError
from fedllm.privacy.accounting import Event
from fedllm.privacy.chain import Context, LedgerEntry, verify_chain
from fedllm.privacy.ledger import Ledger
from fedllm.protocol.entry import signed
from tests.privacy.ledger_home import CHEAP, ME, MINE, PLAN, charge, reserve, trained, who
from tests.privacy.spent import committed_events, spent_events


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "ledger.db", ME)) as ledger:
        yield ledger


@pytest.fixture
def chain(ledger: Ledger) -> list[LedgerEntry]:
    """open, reserve, and charges of rounds 1 to 3."""
    return trained(ledger)


def edited(entry: LedgerEntry, **said: Any) -> LedgerEntry:  # noqa: ANN401 - an entry's own fields
    """The same entry saying something else, its signature as it was."""
    return LedgerEntry.model_validate_json(json.dumps(json.loads(entry.model_dump_json()) | said))


def follow(chain: list[LedgerEntry], **said: Any) -> LedgerEntry:  # noqa: ANN401 - an entry's own fields
    """An entry more that the site itself signs, whatever it says."""
    last = chain[-1]
    body: dict[str, Any] = {"seq": last.seq + 1, "previous": last.sha256, "dataset": last.dataset}
    return signed(ME.signing, **body | said)


def spending(chain: list[LedgerEntry], **said: Any) -> LedgerEntry:  # noqa: ANN401 - an entry's own fields
    """A charge of round 4 after `chain`, except for what is said otherwise."""
    body: dict[str, Any] = {
        "kind": "charge",
        "sampling_rate": CHEAP.sampling_rate,
        "noise_multiplier": CHEAP.noise_multiplier,
        "first": 0,
        "steps": 10,
        "reservation": 1,
        "context": about(4),
    }
    return follow(chain, **body | said)


def about(number: int, run: str = "run-1") -> Context:
    return Context(federation="fed", run=run, round=number, plan_sha256=PLAN, nonce="0" * 32)


def test_a_chain_as_it_was_written_holds(chain: list[LedgerEntry]) -> None:
    assert [entry.kind for entry in chain] == ["open", "reserve", "charge", "charge", "charge"]
    assert verify_chain(chain, MINE) == chain[-1].head


def test_an_entry_survives_its_journey_as_json(chain: list[LedgerEntry]) -> None:
    again = [LedgerEntry.model_validate_json(entry.model_dump_json()) for entry in chain]
    assert [entry.sha256 for entry in again] == [entry.sha256 for entry in chain]


def test_the_encoding_is_the_documented_one(chain: list[LedgerEntry]) -> None:
    """Made anew from the words of entry.py, with nothing of the code."""
    entry = chain[2]
    said = json.loads(entry.model_dump_json())
    context, signature = said.pop("context"), said.pop("signature")
    for name in ("sampling_rate", "noise_multiplier"):
        said[name] = struct.pack(">d", said[name]).hex()
    statement = json.dumps(said, sort_keys=True, separators=(",", ":")).encode("ascii")
    assert b'"delta":null' in statement
    assert b'"noise_multiplier":"4010000000000000"' in statement
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(entry.by))
    key.verify(bytes.fromhex(signature), b"fedllm.ledger-entry/1\n" + statement)
    digest = hashlib.sha256(b"fedllm.ledger-entry/1\n" + statement + b"\n" + signature.encode())
    assert digest.hexdigest() == chain[3].previous
    salted = json.dumps(context, sort_keys=True, separators=(",", ":")).encode()
    assert hashlib.sha256(b"fedllm.ledger-context/1\n" + salted).hexdigest() == chain[2].context_sha256


def test_without_contexts_the_chain_still_holds_and_names_no_training(chain: list[LedgerEntry]) -> None:
    bare = [entry.redacted() for entry in chain]
    shown = "".join(entry.model_dump_json() for entry in bare)
    assert not [name for name in ('fed"', "run-1", PLAN) if name in shown]
    assert verify_chain(bare, MINE) == chain[-1].head


def test_two_trainings_without_contexts_show_no_common_hash(ledger: Ledger) -> None:
    """A coordinator who guesses federation, run and round cannot confirm it: the context is salted."""
    first, again = reserve(ledger), reserve(ledger, "run-2")
    reserve(ledger, "run-1")
    hashes = [e.context_sha256 for e in ledger.entries("ward-7", show="other") if e.kind == "reserve"]
    assert first.context is not None
    assert again.context is not None
    assert len(set(hashes)) == 3
    unsalted = first.context.model_copy(update={"nonce": "0" * 32})
    assert unsalted.sha256 not in hashes


def test_a_context_of_another_run_is_refused(chain: list[LedgerEntry]) -> None:
    with pytest.raises(ValidationError, match="context is not the one that was signed"):
        edited(chain[2], context=about(1, "run-9").model_dump())


@pytest.mark.parametrize(
    "said",
    [{"steps": 9}, {"sampling_rate": 0.02}, {"noise_multiplier": 5.0}, {"first": 1}, {"reservation": 0}],
)
def test_an_edited_body_is_found(chain: list[LedgerEntry], said: dict[str, Any]) -> None:
    chain[-1] = edited(chain[-1], **said)
    with pytest.raises(LedgerError, match="entry 4 was edited"):
        verify_chain(chain, MINE)


def test_an_edited_body_in_the_midst_is_found(chain: list[LedgerEntry]) -> None:
    chain[2] = edited(chain[2], steps=1)
    with pytest.raises(LedgerError, match="entry 2 was edited"):
        verify_chain(chain, MINE)


def test_an_edited_signature_is_found(chain: list[LedgerEntry]) -> None:
    other = "0" if chain[-1].signature[0] != "0" else "1"
    chain[-1] = edited(chain[-1], signature=other + chain[-1].signature[1:])
    with pytest.raises(LedgerError, match="entry 4 was edited"):
        verify_chain(chain, MINE)


def test_a_removed_entry_is_found(chain: list[LedgerEntry]) -> None:
    del chain[2]
    with pytest.raises(LedgerError, match="entry 3 stands where entry 2 is due"):
        verify_chain(chain, MINE)


def test_a_removed_entry_is_found_when_the_rest_is_renumbered_and_signed_anew(
    chain: list[LedgerEntry],
) -> None:
    chain[3] = spending(chain[:2], context=about(2))
    assert chain[3].seq == 2
    del chain[2]
    with pytest.raises(LedgerError, match="entry 4 stands where entry 3 is due"):
        verify_chain(chain, MINE)
    with pytest.raises(LedgerError, match="entry 3 does not follow"):
        verify_chain([*chain[:3], spending([chain[2]], previous=chain[1].sha256, context=about(9))], MINE)


def test_swapped_entries_are_found(chain: list[LedgerEntry]) -> None:
    chain[2], chain[3] = chain[3], chain[2]
    with pytest.raises(LedgerError, match="entry 3 stands where entry 2 is due"):
        verify_chain(chain, MINE)


def test_a_fork_is_found_by_who_saw_the_other_branch(chain: list[LedgerEntry]) -> None:
    forked = [*chain[:3], spending(chain[:3], steps=1)]
    assert verify_chain(forked, MINE).seq == 3
    with pytest.raises(LedgerError, match="entry 3 is not the one that was shown before"):
        verify_chain(forked, MINE, earlier=chain)
    with pytest.raises(LedgerError, match="entry 5 does not follow"):
        verify_chain([spending([*chain[:4], forked[3].model_copy(update={"seq": 4})])], MINE, earlier=chain)


def test_only_new_entries_are_needed_and_known_ones_may_come_again(chain: list[LedgerEntry]) -> None:
    assert verify_chain(chain[3:], MINE, earlier=chain[:3]) == chain[-1].head
    assert verify_chain(chain[1:], MINE, earlier=chain[:3]) == chain[-1].head
    assert verify_chain([], MINE, earlier=chain) == chain[-1].head


def test_entries_that_leave_a_gap_are_refused(chain: list[LedgerEntry]) -> None:
    with pytest.raises(LedgerError, match="entry 3 stands where entry 2 is due"):
        verify_chain(chain[3:], MINE, earlier=chain[:2])


def test_an_empty_chain_is_refused() -> None:
    with pytest.raises(LedgerError, match="empty"):
        verify_chain([], MINE)


def test_a_chain_by_another_key_is_refused(chain: list[LedgerEntry]) -> None:
    with pytest.raises(LedgerError, match="not signed by the site's key"):
        verify_chain(chain, who("movies").public.verify)
    assert verify_chain(chain, {MINE, who("movies").public.verify}).seq == 4


def test_an_entry_by_a_key_that_nobody_admitted_is_refused(chain: list[LedgerEntry]) -> None:
    stranger = who("movies")
    last = chain[-1]
    body = {"seq": last.seq + 1, "previous": last.sha256, "dataset": last.dataset}
    chain.append(signed(stranger.signing, kind="rekey", key=stranger.public.verify, **body))
    with pytest.raises(LedgerError, match="a key that the chain does not know"):
        verify_chain(chain, stranger.public.verify)


def test_a_retired_key_signs_no_more(chain: list[LedgerEntry]) -> None:
    chain.append(follow(chain, kind="rekey", key=who("new").public.verify, retires=MINE))
    chain.append(spending(chain))
    with pytest.raises(LedgerError, match="a key that the chain does not know"):
        verify_chain(chain, MINE)


def test_a_key_retires_itself_alone(chain: list[LedgerEntry]) -> None:
    chain.append(follow(chain, kind="rekey", key=who("new").public.verify, retires=who("old").public.verify))
    with pytest.raises(LedgerError, match="retires a key that it is not signed by"):
        verify_chain(chain, MINE)


def test_another_data_sets_entry_does_not_fit_in(chain: list[LedgerEntry]) -> None:
    chain.append(spending(chain, dataset="ward-8"))
    with pytest.raises(LedgerError, match="of one data set"):
        verify_chain(chain, MINE)


def test_a_chain_opens_first_and_once(chain: list[LedgerEntry]) -> None:
    with pytest.raises(LedgerError, match="opens once"):
        verify_chain([*chain, follow(chain, kind="open", unit="person")], MINE)
    begun = [spending(chain, seq=0, previous="0" * 64)]
    with pytest.raises(LedgerError, match="opens once"):
        verify_chain(begun, MINE)


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ({"steps": 71}, "charges 71 steps where 70 of the reserved are left"),
        ({"noise_multiplier": 3.9}, "its sampling rate or noise is not the reserved one"),
        ({"sampling_rate": 0.011}, "its sampling rate or noise is not the reserved one"),
        ({"context": about(3)}, "steps of round 3 of run-1 are charged twice"),
        ({"context": about(3), "first": 9}, "steps of round 3 of run-1 are charged twice"),
        ({"context": about(4, "run-2")}, "reservation 1 is another training's"),
        ({"reservation": 0}, "reservation 0 is not open"),
        ({"reservation": 99}, "reservation 99 is not open"),
    ],
)
def test_a_charge_that_breaks_a_rule_is_refused_though_well_signed(
    chain: list[LedgerEntry], said: dict[str, Any], fault: str
) -> None:
    with pytest.raises(LedgerError, match=fault):
        verify_chain([*chain, spending(chain, **said)], MINE)


def test_steps_that_touch_are_no_overlap(chain: list[LedgerEntry]) -> None:
    assert verify_chain([*chain, spending(chain, context=about(3), first=10, steps=70)], MINE).seq == 5


def test_a_settled_reservation_takes_no_charge(chain: list[LedgerEntry]) -> None:
    chain.append(follow(chain, kind="settle", steps=70, reservation=1, context=about(0)))
    assert verify_chain(chain, MINE).seq == 5
    with pytest.raises(LedgerError, match="reservation 1 is not open"):
        verify_chain([*chain, spending(chain)], MINE)


def test_a_settlement_gives_back_what_is_left_and_no_more(chain: list[LedgerEntry]) -> None:
    chain.append(follow(chain, kind="settle", steps=71, reservation=1, context=about(0)))
    with pytest.raises(LedgerError, match="returns 71 steps where 70 are left"):
        verify_chain(chain, MINE)


def test_a_run_has_one_open_reservation(chain: list[LedgerEntry]) -> None:
    twice = {
        name: getattr(chain[1], name) for name in ("sampling_rate", "noise_multiplier", "steps", "delta")
    }
    with pytest.raises(LedgerError, match="run-1 has an open reservation already"):
        verify_chain([*chain, follow(chain, kind="reserve", context=about(0), **twice)], MINE)


@pytest.mark.parametrize(
    "said",
    [
        {"unit": "record"},
        {"key": "0" * 64},
        {"first": None},
        {"steps": 0},
        {"steps": 2**53},
        {"steps": "10"},
        {"sampling_rate": 1.1},
        {"noise_multiplier": float("inf")},
        {"at": 1.0},
    ],
)
def test_an_entry_says_what_its_kind_says_and_nothing_else(
    chain: list[LedgerEntry], said: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError):
        edited(chain[-1], **said)


def test_spent_are_charges_and_committed_are_open_promises_too(ledger: Ledger) -> None:
    trained(ledger, 3, run="run-1")
    trained(ledger, 2, run="run-2", event=Event(0.02, 4.0, 50))  # settles run-1
    reserve(ledger, "run-1", federation="other", event=Event(0.02, 4.0, 30))
    entries = ledger.entries("ward-7", show=None)
    assert spent_events(entries) == [Event(0.01, 4.0, 30), Event(0.02, 4.0, 20)]
    assert spent_events(entries, "run-2") == [Event(0.02, 4.0, 20)]
    assert committed_events(entries) == [Event(0.01, 4.0, 30), Event(0.02, 4.0, 80)]


def test_charges_of_one_step_each_are_summed_into_one_event(ledger: Ledger) -> None:
    reserve(ledger)
    for step in range(5):
        charge(ledger, 1, first=step, steps=1)
    assert spent_events(ledger.entries("ward-7", show=None)) == [Event(0.01, 4.0, 5)]

"""The published ledger and private messages: both implementations read, sign and refuse them alike."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedllm.errors import LedgerError
from fedllm.privacy.chain import verify_chain
from fedllm.protocol.entry import LedgerEntry, signed
from fedllm.protocol.messages import Closed, Message, Plan, PublicKeys, Update
from fedllm.protocol.terms import PrivacyPlan
from fedllm.secure.envelope import open_envelope, sign
from tests.protocol import independent as ind
from tests.protocol import independent_privacy as priv
from tests.protocol.independent_checks import RefusedError
from tests.protocol.independent_ledger import events_of, read_chain
from tests.protocol.test_vectors import PARTIES, identity, label, published

LEDGER, PRIVATE = published("ledger.json"), published("private.json")
KINDS: dict[str, type[Message]] = {
    "fedllm.plan/1": Plan,
    "fedllm.update/1": Update,
    "fedllm.closed/1": Closed,
}
VERIFY = PARTIES["amazon"]["verify"]
_NO_STATEMENT = {"context_sha256", "by", "signature"}


def entry(said: dict[str, Any]) -> LedgerEntry:
    return LedgerEntry.model_validate_json(json.dumps(said), strict=True)


def test_the_published_ledger_has_every_kind_of_entry_and_ones_without_their_context() -> None:
    kinds = {vector["entry"]["kind"] for vector in LEDGER["entries"]}
    assert kinds == {"open", "reserve", "charge", "settle", "rekey"}
    hidden = [said for said in LEDGER["shown"] if said["context_sha256"] and not said["context"]]
    assert {said["kind"] for said in hidden} == {"reserve", "charge", "settle"}


@pytest.mark.parametrize(
    "vector", LEDGER["entries"], ids=lambda v: f"{v['entry']['seq']}-{v['entry']['kind']}"
)
def test_both_implementations_encode_sign_and_hash_an_entry_alike(vector: dict[str, Any]) -> None:
    said = vector["entry"]
    seed = bytes.fromhex(LEDGER["seeds"][vector["signed_by"]])
    mine = entry(said)
    mine.check_signature()
    assert mine.statement.decode() == vector["statement"]
    assert mine.sha256 == vector["sha256"]
    fields = mine.model_dump(exclude=_NO_STATEMENT) | {"context": mine.context}
    assert signed(Ed25519PrivateKey.from_private_bytes(seed), **fields) == mine
    assert priv.statement(said).decode() == vector["statement"]
    assert priv.entry_sha256(said) == vector["sha256"]
    assert priv.sign_entry(said, seed) == said


@pytest.mark.parametrize(
    "vector", LEDGER["entries"], ids=lambda v: f"{v['entry']['seq']}-{v['entry']['kind']}"
)
def test_an_entry_without_its_context_is_the_same_link(vector: dict[str, Any]) -> None:
    assert entry(vector["entry"]).redacted().sha256 == vector["sha256"]
    assert entry(vector["entry"] | {"context": None}) == entry(vector["entry"]).redacted()
    assert priv.entry_sha256(vector["entry"] | {"context": None}) == vector["sha256"]


def test_both_implementations_hash_a_privacy_plan_alike() -> None:
    told = LEDGER["privacy"]
    assert PrivacyPlan.model_validate_json(json.dumps(told["plan"])).sha256 == told["sha256"]
    assert priv.privacy_sha256(told["plan"]) == told["sha256"]


@pytest.mark.parametrize(
    "changes",
    [
        {"epsilon": 8, "clip": 1, "noise_multiplier": 10**16},
        {"delta": 1e-5, "clip": 1e-4, "epsilon": 9.999e-5, "noise_multiplier": 1e15},
        {"delta": 5e-324, "epsilon": 1.7976931348623157e308, "clip": 0.1, "noise_multiplier": 1e16},
        {"unit_field": 'höchst "eigen"\u2028\u007f\U0001f600\\\n'},
        {
            "sites": {
                "b": {"sampling_rate": 1, "noise_multiplier": 2},
                "a": {"sampling_rate": 0.1, "noise_multiplier": 1.5},
            }
        },
    ],
)
def test_a_privacy_plans_hash_is_over_decimals_that_are_spelt_in_one_way(changes: dict[str, Any]) -> None:
    for plan in (LEDGER["privacy"]["plan"] | changes, _without_defaults(LEDGER["privacy"]["plan"] | changes)):
        mine = PrivacyPlan.model_validate_json(json.dumps(plan), strict=True)
        assert mine.sha256 == priv.privacy_sha256(plan)


def _without_defaults(plan: dict[str, Any]) -> dict[str, Any]:
    left_out = {"adjacency", "unit_field", "max_per_person", "min_honest", "sites"}
    return {name: value for name, value in plan.items() if name not in left_out}


def test_both_implementations_take_the_published_chain_and_come_to_the_same_end() -> None:
    for shown in (LEDGER["shown"], [vector["entry"] for vector in LEDGER["entries"]]):
        book = read_chain(shown, VERIFY)
        assert priv.entry_sha256(book.entries[-1]) == LEDGER["entries"][-1]["sha256"]
        head = verify_chain(map(entry, shown), VERIFY)
        assert (head.seq, head.sha256) == (len(shown) - 1, LEDGER["entries"][-1]["sha256"])


@pytest.mark.parametrize("vector", LEDGER["refused_entries"], ids=label)
def test_both_implementations_refuse_an_entry_that_is_none(vector: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Entry"):
        entry(vector["entry"])
    with pytest.raises(RefusedError):
        priv.check_entry(vector["entry"])


@pytest.mark.parametrize("vector", LEDGER["refused_chains"], ids=label)
def test_both_implementations_refuse_a_chain_that_breaks_a_rule(vector: dict[str, Any]) -> None:
    known = LEDGER["shown"][: vector["known"]]
    shown = LEDGER["shown"][: vector["keep"]] + vector["then"]
    with pytest.raises(LedgerError):
        verify_chain([entry(said) for said in shown], VERIFY, [entry(said) for said in known])
    with pytest.raises(RefusedError):
        read_chain(shown, VERIFY, known)


@pytest.mark.parametrize("vector", PRIVATE["accepted"], ids=lambda v: v["message"]["schema"])
def test_both_implementations_sign_and_read_a_private_message_alike(vector: dict[str, Any]) -> None:
    said, data = vector["message"], vector["envelope"].encode()
    kind, who = KINDS[said["schema"]], identity(said["sender"])
    message = kind.model_validate_json(json.dumps(said), by_alias=True, by_name=False)
    assert sign(message, who) == data
    keys = PublicKeys(name=who.name, verify=who.public.verify, recipient=who.public.recipient)
    expected = PRIVATE["expected"] | {"sender": who.name}
    assert open_envelope(data, kind, keys, **expected) == message
    assert ind.open_envelope(data, said["schema"], who.public.verify, **expected) == said
    assert ind.sha256(data) == vector["envelope_sha256"]


def test_the_published_update_goes_on_from_the_head_that_its_plan_names() -> None:
    plan, update, closed = (vector["message"] for vector in PRIVATE["accepted"])
    (named,) = plan["ledgers"]["amazon"]
    known = LEDGER["shown"][: named["seq"] + 1]
    assert named["sha256"] == priv.entry_sha256(known[-1])
    book = read_chain(update["ledger"], VERIFY, known)
    assert events_of(book, plan, update, "amazon") == (0.03125, 1.0, 20)
    newest = closed["verdicts"][0]["ledger"]
    assert (newest["seq"], newest["sha256"]) == (8, priv.entry_sha256(book.entries[-1]))
    assert {update[name] for name in ("examples", "loss", "seconds")} == {None}

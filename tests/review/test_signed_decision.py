"""Signatures of reviewers, checked again wherever a name is shown."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # re-exported bare

from fedllm.errors import ReviewError
from fedllm.review.card import Links, render_review
from fedllm.review.decision import decision_on
from fedllm.review.register import Register
from fedllm.review.review import decide, review_version
from fedllm.review.signed_decision import PAYLOAD_TYPE, reviewer_label, verify_decision
from fedllm.secure.identity import create_identity, fingerprint
from tests.review.reviewed import NO, RULES, YES, Heard, by_hand, reset


def test_a_signature_can_be_checked_again_and_an_edited_record_is_found_out(
    register: Register, heard: Heard, tmp_path: Path
) -> None:
    ann = create_identity(tmp_path / "ann", "ann")
    reset(register, champion="1")
    decide(register, "2", YES, RULES, notify=heard, signer=ann)
    tags = register.tags("2")
    mark = fingerprint(ann.public)
    assert tags["review.reviewer"] == f"Ann Example (signed {mark})"
    taken = decision_on(register.name, "2", tags)
    assert taken is not None
    assert verify_decision(taken, tags) == mark
    told = render_review(review_version(register, "2", RULES), Links("http://mlflow"))
    assert f"approved by Ann Example (signed {mark})" in told
    for change in (
        {"reviewer": "Bob"},
        {"reason": "?"},
        {"version": "3"},
        {"replaces": None},
        {"approve": False},
    ):
        assert "NOT signed" in reviewer_label(replace(taken, **change), tags)
    bob = create_identity(tmp_path / "bob", "bob")
    forged = tags | {"review.key": bob.public.model_dump_json()}
    with pytest.raises(ReviewError, match="has no valid signature"):
        verify_decision(taken, forged)
    with pytest.raises(ReviewError, match="was signed by"):
        verify_decision(replace(taken, signed=fingerprint(bob.public)), tags)
    with pytest.raises(ReviewError, match="is not signed"):
        verify_decision(replace(taken, signed=None), tags)


def test_an_unsigned_decision_leaves_no_older_signature_behind(
    register: Register, heard: Heard, tmp_path: Path
) -> None:
    ann = create_identity(tmp_path / "ann", "ann")
    decide(register, "2", NO, RULES, notify=heard, signer=ann)
    decide(register, "2", YES, RULES, notify=heard)
    tags = register.tags("2")
    assert tags["review.reviewer"] == "Ann Example (asserted)"
    assert not {"review.envelope", "review.key"} & tags.keys()


def test_a_signature_that_is_none_is_said_so_wherever_the_reviewer_is_named(
    register: Register, heard: Heard
) -> None:
    decide(register, "2", YES, RULES, notify=heard)
    record = json.loads(register.tags("2")["review.record"]) | {"signed": "abcd-efgh"}
    by_hand(register, "2", record=json.dumps(record))
    done = decide(register, "2", YES, RULES, notify=heard)
    assert done.who.startswith("Ann Example (NOT signed: ")
    by_hand(register, "2", applied="")
    decide(register, "2", YES, RULES, notify=heard)
    assert "NOT signed" in heard[-1].payload["reviewer"]
    assert "NOT signed" in register.tags("2")["review.reviewer"]


def test_a_signed_payload_that_is_no_statement_is_found_out(
    register: Register, heard: Heard, tmp_path: Path
) -> None:
    ann = create_identity(tmp_path / "ann", "ann")
    decide(register, "2", NO, RULES, notify=heard, signer=ann)
    envelope = Envelope(b"\xff no JSON", PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(ann.signing))
    by_hand(register, "2", envelope=json.dumps(envelope.to_dict()))
    assert "NOT signed" in render_review(review_version(register, "2", RULES), Links("http://mlflow"))

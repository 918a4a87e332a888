"""Decisions by tags that people set in MLflow, one after the other."""

import pytest

from fedllm.review.gates import Rules
from fedllm.review.register import Register
from fedllm.review.review import decide
from fedllm.review.rollback import roll_back
from fedllm.review.tags import act_on_tags
from tests.review.reviewed import NO, PIN, RULES, YES, Heard, Killed, by_hand, dying, named, reset


def test_a_tag_approves_once(register: Register, heard: Heard) -> None:
    reset(register, champion="1")
    by_hand(register, "2", status="approved", reviewer="Bob", reason="as good")
    (done,) = act_on_tags(register, RULES, notify=heard)
    assert (done.version, done.outcome[:24]) == ("2", "approved: champion since")
    assert named(register) == ("2", "1")
    assert register.tags("2")["review.reviewer"] == "Bob (asserted)"
    roll_back(register, "Ann", "a doubt", notify=heard)
    assert act_on_tags(register, RULES, notify=heard) == []
    assert named(register) == ("1", None)
    assert heard.kinds == ["approved", "rolled-back"]


def test_tags_that_are_set_one_after_the_other_are_waited_for(register: Register, heard: Heard) -> None:
    by_hand(register, "2", status="approved")
    act_on_tags(register, RULES, notify=heard)
    assert register.tags("2")["review.outcome"] == "waits for review.reviewer and review.reason"
    by_hand(register, "2", reviewer="Bob", reason="as good")
    act_on_tags(register, RULES, notify=heard)
    assert named(register) == ("2", None)


def test_a_failing_gate_refuses_a_tag_once_and_a_deleted_outcome_asks_again(
    register: Register, heard: Heard
) -> None:
    reset(register, champion="1")
    by_hand(register, "4", status="approved", reviewer="Bob", reason="as good")
    (done,) = act_on_tags(register, RULES, notify=heard)
    assert "quality: fail" in done.outcome
    assert act_on_tags(register, RULES, notify=heard) == []
    assert (named(register), heard.kinds) == (("1", None), ["refused"])
    register.client.delete_model_version_tag(register.name, "4", "review.outcome")
    act_on_tags(register, Rules(allowed_loss=1.0, pin=PIN), notify=heard)
    assert named(register) == ("4", "1")


def test_a_changed_mind_is_a_new_decision(register: Register, heard: Heard) -> None:
    by_hand(register, "2", status="rejected", reviewer="Bob", reason="no")
    act_on_tags(register, RULES, notify=heard)
    by_hand(register, "2", status="approved", reviewer="Bob", reason="yes")
    act_on_tags(register, RULES, notify=heard)
    assert named(register) == ("2", None)
    assert heard.kinds == ["rejected", "approved"]


@pytest.mark.parametrize("first", ["reviewer", "reason"])
def test_another_status_waits_for_words_of_its_own(register: Register, heard: Heard, first: str) -> None:
    decide(register, "2", NO, RULES, notify=heard)
    words = {"reviewer": "Bob", "reason": "as good"}
    by_hand(register, "2", status="approved")
    act_on_tags(register, RULES, notify=heard)
    waits = "waits for review.reviewer and review.reason to be set again"
    assert register.tags("2")["review.outcome"] == waits
    by_hand(register, "2", **{first: words.pop(first)})
    act_on_tags(register, RULES, notify=heard)
    (other,) = words
    assert register.tags("2")["review.outcome"] == f"waits for review.{other} to be set again"
    assert named(register) == (None, None)
    by_hand(register, "2", **words)
    act_on_tags(register, RULES, notify=heard)
    assert named(register) == ("2", None)
    assert register.tags("2")["review.reviewer"] == "Bob (asserted)"


def test_a_name_that_imitates_a_signature_is_refused_in_a_tag(register: Register, heard: Heard) -> None:
    by_hand(register, "2", status="approved", reviewer="Bob (signed abcd-efgh)", reason="as good")
    (done,) = act_on_tags(register, RULES, notify=heard)
    assert done.outcome.startswith("approved: refused, the reviewer")
    assert named(register) == (None, None)


def test_a_tags_decision_that_broke_off_is_not_taken_over_another_champion(
    register: Register, heard: Heard
) -> None:
    reset(register, champion="1")
    by_hand(register, "2", status="approved", reviewer="Bob", reason="as good")
    with pytest.raises(Killed):
        act_on_tags(dying(register, 5), RULES, notify=heard)
    assert "review.record" in register.tags("2")
    decide(register, "3", YES, RULES, notify=heard)
    (done,) = act_on_tags(register, RULES, notify=heard)
    assert "changed since the card was shown" in done.outcome
    assert named(register) == ("3", "1")


def test_other_words_in_the_tag_are_nobodys_decision(register: Register, heard: Heard) -> None:
    by_hand(register, "2", status="pending", reviewer="Bob", reason="later")
    assert act_on_tags(register, RULES, notify=heard) == []

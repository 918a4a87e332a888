"""The way back: what a rollback leaves behind, and whenever it is killed."""

import json
from dataclasses import asdict

import pytest

from fedllm.errors import ReviewError
from fedllm.review.gates import Rules
from fedllm.review.register import Register
from fedllm.review.review import decide
from fedllm.review.rollback import roll_back
from tests.review.reviewed import PIN, RULES, YES, Heard, Killed, dying, named, reset, state


def test_whenever_a_rollback_is_killed_the_next_call_ends_it(register: Register) -> None:
    reset(register, champion="3")
    decide(register, "1", YES, Rules(allowed_loss=1.0, pin=PIN), notify=Heard())
    record = register.tags("1")["review.record"]

    def promoted() -> None:
        reset(register, champion="2", previous="1")
        register.tag("1", {"review.record": record})

    promoted()
    roll_back(register, "Ann", "a doubt", notify=Heard())
    wanted = state(register)
    assert named(register) == ("1", "3"), "what version 1 had replaced is what it can go back to"
    for life in range(40):
        promoted()
        heard = Heard()
        try:
            roll_back(dying(register, life), "Ann", "a doubt", notify=heard)
        except Killed:
            champion, previous = named(register)
            assert champion != previous, f"killed before write {life}"
            roll_back(register, "Ann", "a doubt", notify=heard)
        else:
            break
        assert state(register) == wanted, f"killed before write {life}"
        assert heard.kinds == ["rolled-back"]
    assert life > 5


def test_without_a_previous_champion_there_is_no_way_back(register: Register, heard: Heard) -> None:
    with pytest.raises(ReviewError, match="has no champion"):
        roll_back(register, "Ann", "a doubt", notify=heard)
    reset(register, champion="1")
    with pytest.raises(ReviewError, match="no previous champion: there is nothing to roll back to"):
        roll_back(register, "Ann", "a doubt", notify=heard)
    assert not heard


def test_a_version_that_was_rolled_back_can_be_promoted_anew(register: Register, heard: Heard) -> None:
    for version in ("1", "2"):
        decide(register, version, YES, RULES, notify=heard)
    roll_back(register, "Ann", "a doubt", notify=heard)
    assert named(register) == ("1", None)
    assert register.tags("2")["review.outcome"].startswith("approved: rolled back to version 1")
    decide(register, "2", YES, RULES, notify=heard)
    assert named(register) == ("2", "1")
    assert heard.kinds == ["approved", "approved", "rolled-back", "approved"]


def test_other_words_roll_back_once_more_though_the_last_record_was_left_behind(
    register: Register, heard: Heard
) -> None:
    for version in ("1", "2", "3"):
        decide(register, version, YES, RULES, notify=heard)
    done = roll_back(register, "Ann", "a doubt", notify=heard)
    left = json.dumps(asdict(done))  # as a process leaves it that is killed before its last write
    register.tag_model("rollback.record", left)
    roll_back(register, "Ann", "a doubt", notify=heard)
    assert named(register) == ("2", "1"), "the same words repeat what was done"
    register.tag_model("rollback.record", left)
    roll_back(register, "Bob", "another doubt", notify=heard, expect="2")
    assert named(register) == ("1", None)

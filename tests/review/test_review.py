"""Decisions about versions: what they leave behind, whatever crashes, and whoever else decides."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from fedllm.errors import ReviewError
from fedllm.review.card import Links, render_review
from fedllm.review.decision import decision_on, decision_request
from fedllm.review.register import Register
from fedllm.review.review import ANY_CHAMPION, decide, review_version
from fedllm.review.rollback import roll_back
from fedllm.secure.identity import create_identity
from fedllm.tracking import Tracker
from tests.review.reviewed import NO, RULES, YES, Heard, Killed, Mortal, by_hand, dying, named, reset, state


def test_an_approval_moves_the_aliases_and_is_on_record(register: Register, heard: Heard) -> None:
    reset(register, champion="1")
    done = decide(register, "2", YES, RULES, notify=heard)
    assert named(register) == ("2", "1")
    tags = register.tags("2")
    assert tags["review.decision"] == tags["review.status"] == "approved"
    assert tags["review.reviewer"] == "Ann Example (asserted)"
    assert tags["review.reason"] == "reads well"
    assert tags["review.outcome"] == f"approved: champion since {done.decision.at}, in the place of version 1"
    assert json.loads(tags["review.gates"])["quality"][0] == "pass"
    assert (done.decision.replaces, done.decision.model_sha256) == ("1", f"{2:064x}")
    (event,) = heard
    assert event.kind == "fedllm.review.approved"
    assert event.resource["prefect.resource.id"] == "fedllm.federation.reviewed"
    assert (event.payload["version"], event.payload["replaces"]) == ("2", "1")


def test_the_first_champion_has_nobody_before_it(register: Register, heard: Heard) -> None:
    decide(register, "1", YES, RULES, notify=heard)
    assert named(register) == ("1", None)


def test_a_failing_gate_refuses_an_approval_and_that_is_on_record(register: Register, heard: Heard) -> None:
    reset(register, champion="1")
    with pytest.raises(
        ReviewError, match=r"version 4 .* not promoted: quality: fail, worse than the champion"
    ):
        decide(register, "4", YES, RULES, notify=heard)
    assert named(register) == ("1", None)
    tags = register.tags("4")
    assert tags["review.decision"] == "refused"
    assert tags["review.outcome"].startswith("approved: refused at 20")
    assert "quality: fail" in tags["review.outcome"]
    assert heard.kinds == ["refused"]


def test_a_rejection_moves_nothing_and_is_on_record(register: Register, heard: Heard) -> None:
    reset(register, champion="1")
    decide(register, "2", NO, RULES, notify=heard)
    assert named(register) == ("1", None)
    assert register.tags("2")["review.outcome"].startswith("rejected: rejected at")
    assert heard.kinds == ["rejected"]


def test_a_rejected_version_may_be_approved_later(register: Register, heard: Heard) -> None:
    decide(register, "2", NO, RULES, notify=heard)
    decide(register, "2", YES, RULES, notify=heard)
    assert named(register) == ("2", None)
    assert heard.kinds == ["rejected", "approved"]


def test_the_champion_is_not_rejected_but_rolled_back(register: Register, heard: Heard) -> None:
    reset(register, champion="1")
    with pytest.raises(ReviewError, match="is the champion: fedllm rollback"):
        decide(register, "1", NO, RULES, notify=heard)
    with pytest.raises(ReviewError, match="champion already, without a review"):
        decide(register, "1", YES, RULES, notify=heard)


@pytest.mark.parametrize(
    ("reviewer", "reason", "words"),
    [
        (" ", "good", "needs a reviewer"),
        ("Ann", "\n", "needs a reason"),
        ("Ann (signed abcd)", "good", "no parentheses"),
        ("A" * 101, "good", "101 characters"),
        ("Ann\x07", "good", "cannot be printed"),
    ],
)
def test_what_a_reviewer_says_must_name_one_and_say_why(reviewer: str, reason: str, words: str) -> None:
    with pytest.raises(ReviewError, match=words):
        decision_request(approve=True, reviewer=reviewer, reason=reason)


def test_a_name_that_is_on_record_already_is_read_as_it_was() -> None:
    assert (
        decision_request(approve=True, reviewer="Ann Example (asserted)", reason="x").reviewer
        == "Ann Example"
    )


BEFORE = {"champion": "1", "previous": "3"}


def test_whenever_a_promotion_is_killed_the_next_call_ends_it(register: Register) -> None:
    reset(register, **BEFORE)
    decide(register, "2", YES, RULES, notify=Heard())
    wanted = state(register)
    assert named(register) == ("2", "1")
    for life in range(40):
        reset(register, **BEFORE)
        heard = Heard()
        try:
            decide(dying(register, life), "2", YES, RULES, notify=heard)
        except Killed:
            decide(register, "2", YES, RULES, notify=heard)
        else:
            break
        assert state(register) == wanted, f"killed before write {life}"
        assert heard.kinds == ["approved"], f"killed before write {life}"
    assert life > 8, "a promotion writes more often than that"
    decide(register, "2", YES, RULES, notify=heard)
    assert (state(register), heard.kinds) == (wanted, ["approved"]), "once more changes nothing"


def test_a_promotion_that_was_killed_between_the_aliases_can_be_rejected(register: Register) -> None:
    reset(register, **BEFORE)
    dead = Mortal(register.client, 40)
    dead.deadly = "champion"
    with pytest.raises(Killed):
        decide(replace(register, client=dead), "2", YES, RULES, notify=Heard())
    assert named(register) == ("1", "1")
    with pytest.raises(ReviewError, match="was interrupted: decide again first"):
        roll_back(register, "Ann", "a doubt", notify=Heard())
    decide(register, "2", NO, RULES, notify=Heard())
    assert named(register) == ("1", "3")


def test_a_decision_about_another_champion_is_void(register: Register, heard: Heard) -> None:
    reset(register, champion="1")
    decide(register, "3", YES, RULES, notify=heard)
    with pytest.raises(
        ReviewError, match=r"changed since the card was shown \(it was version 1, now version 3\)"
    ):
        decide(register, "2", YES, RULES, notify=heard, expect="1")
    with pytest.raises(ReviewError, match=r"it was none, now version 3"):
        decide(register, "2", YES, RULES, notify=heard, expect=None)
    assert named(register) == ("3", "1")
    assert "review.record" not in register.tags("2")


def test_two_approvals_at_once_end_as_one_after_the_other(register: Register, heard: Heard) -> None:
    reset(register, champion="1")
    came: dict[str, str] = {}

    def approve(version: str) -> None:
        try:
            decide(register, version, YES, RULES, notify=heard, expect="1")
            came[version] = "approved"
        except ReviewError as error:
            came[version] = str(error)

    threads = [threading.Thread(target=approve, args=(version,)) for version in ("2", "3")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    champion, previous = named(register)
    assert previous == "1"
    assert champion is not None
    assert came[champion] == "approved"
    (other,) = {"2", "3"} - {champion}
    assert "changed since the card was shown" in came[other]
    assert heard.kinds == ["approved"]


def test_a_decision_that_was_copied_to_another_version_is_none_about_it(
    register: Register, heard: Heard, tmp_path: Path
) -> None:
    ann = create_identity(tmp_path / "ann", "ann")
    decide(register, "3", YES, RULES, notify=heard, signer=ann)
    copied = {name: value for name, value in register.tags("3").items() if name.startswith("review.")}
    del copied["review.applied"]
    register.tag("2", copied)
    assert "Former decision" not in render_review(
        review_version(register, "2", RULES), Links("http://mlflow")
    )
    reset(register, champion="2")
    register.tag("2", copied)
    with pytest.raises(ReviewError, match="champion already, without a review"):
        decide(register, "2", YES, RULES, notify=heard)
    assert named(register) == ("2", None)


@pytest.mark.parametrize("change", [{"reason": 7}, {"verdict": "perhaps"}, {"model_sha256": "f" * 64}])
def test_a_record_that_cannot_be_one_is_none(
    register: Register, heard: Heard, change: dict[str, object]
) -> None:
    decide(register, "2", NO, RULES, notify=heard)
    record = json.loads(register.tags("2")["review.record"]) | change
    by_hand(register, "2", record=json.dumps(record))
    assert decision_on(register.name, "2", register.tags("2")) is None
    assert "Former decision" not in render_review(
        review_version(register, "2", RULES), Links("http://mlflow")
    )


def test_what_people_write_beside_the_metrics_stops_nothing(register: Register) -> None:
    reset(register, champion="1")
    register.tag("1", {"eval.note": "good"})
    try:
        assert review_version(register, "2", RULES).gates[0].verdict == "pass"
        assert Tracker(register.uri).champion_metrics(register.name) == {"accuracy": 0.75, "loss": 0.5}
    finally:
        register.tag("1", {"eval.note": None})


def test_the_card_shows_what_is_decided_by(register: Register) -> None:
    reset(register, champion="1")
    card = render_review(review_version(register, "2", RULES), Links("http://mlflow", "http://prefect"))
    assert "# reviewed, version 2: should it become champion?" in card
    assert "it would replace version 1" in card
    decide_first, gates = card.index("## How to decide"), card.index("## Gates")
    assert decide_first < gates
    assert "`fedllm promote 2 --over 1 --config FILE --reviewer NAME --reason WHY`" in card
    assert "*Promote model* is another route" in card
    assert "| quality | pass | +2.5 points of accuracy (95 %: " in card
    assert "| budget | not observable | no DP configured: no budget applies |" in card
    assert "| accuracy | 77.5 % | 50.0 % | 75.0 % |" in card
    assert "| amazon | yes | accepted | - |" in card
    assert "http://mlflow/#/models/reviewed/versions/2" in card
    assert "✓" not in card


def test_a_version_whose_privacy_is_void_is_marked_when_it_is_met(register: Register) -> None:
    before = register.tags("1")["dp.epsilon"]
    register.tag("1", {"dp.epsilon": "1.5"})
    register.point_champion("1")
    try:
        review_version(register, "2", RULES)
        assert "its privacy claims are not valid" in register.tags("1")["dp.void"]
        assert "dp.void" not in register.tags("2")
    finally:  # the other tests' version is this one
        register.tag("1", {"dp.epsilon": before})
        register.client.delete_model_version_tag(register.name, "1", "dp.void")


def test_the_challenger_is_looked_at_where_no_version_is_named(register: Register) -> None:
    assert review_version(register, None, RULES).version.version == "4"
    with pytest.raises(ReviewError, match="has no version 9"):
        review_version(register, "9", RULES)
    with pytest.raises(ReviewError, match="MLflow has no model nobody"):
        review_version(replace(register, name="nobody"), None, RULES)


def test_whoever_is_champion_may_be_replaced_where_nobody_was_shown(register: Register, heard: Heard) -> None:
    reset(register, champion="1")
    decide(register, "2", YES, RULES, notify=heard, expect=ANY_CHAMPION)
    assert named(register)[0] == "2"

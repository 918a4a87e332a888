"""Decisions about versions: what they leave behind, whatever crashes, and whoever else decides."""

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # re-exported bare

from fedllm.errors import ReviewError
from fedllm.secure.identity import create_identity, fingerprint
from fedllm.tracking import RoundRelease, Tracker
from fedllm.tracking.decision import decision_on, said
from fedllm.tracking.gates import Rules
from fedllm.tracking.register import Register
from fedllm.tracking.review import WHOEVER, decide, look
from fedllm.tracking.review_card import Links, render_review
from fedllm.tracking.review_tags import act_on_tags
from fedllm.tracking.rollback import roll_back
from fedllm.tracking.signed_decision import PAYLOAD_TYPE, verify_decision, vouched
from tests.tracking.reviewed import Heard, Killed, Mortal, publish, reset, state

Make = Callable[..., RoundRelease]

YES = said(approve=True, reviewer="Ann Example", reason="reads well")
NO = said(approve=False, reviewer="Ann Example", reason="reads badly")
RULES = Rules()


@pytest.fixture(scope="module")
def shared(local_mlflow: str, tmp_path_factory: pytest.TempPathFactory, make_release: Make) -> Register:
    """Four versions: 30, 31, 32 and 12 of 40 right."""
    folder = tmp_path_factory.mktemp("artifacts")
    return publish(local_mlflow, make_release, "reviewed", 30, 31, 32, 12, folder=folder)


@pytest.fixture
def register(shared: Register) -> Register:
    reset(shared)
    return shared


@pytest.fixture
def heard() -> Heard:
    return Heard()


def named(register: Register) -> tuple[str | None, str | None]:
    aliases = register.aliases()
    return aliases.champion, aliases.previous


def dying(register: Register, life: int) -> Register:
    return replace(register, client=Mortal(register.client, life))


# What a decision leaves.


def test_an_approval_moves_the_aliases_and_is_on_record(register: Register, heard: Heard) -> None:
    reset(register, champion="1")
    done = decide(register, "2", YES, RULES, tell=heard)
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
    decide(register, "1", YES, RULES, tell=heard)
    assert named(register) == ("1", None)


def test_a_failing_gate_refuses_an_approval_and_that_is_on_record(register: Register, heard: Heard) -> None:
    reset(register, champion="1")
    with pytest.raises(
        ReviewError, match=r"version 4 .* not promoted: quality: fail, worse than the champion"
    ):
        decide(register, "4", YES, RULES, tell=heard)
    assert named(register) == ("1", None)
    tags = register.tags("4")
    assert tags["review.decision"] == "refused"
    assert tags["review.outcome"].startswith("approved: refused at 20")
    assert "quality: fail" in tags["review.outcome"]
    assert heard.kinds == ["refused"]


def test_a_rejection_moves_nothing_and_is_on_record(register: Register, heard: Heard) -> None:
    reset(register, champion="1")
    decide(register, "2", NO, RULES, tell=heard)
    assert named(register) == ("1", None)
    assert register.tags("2")["review.outcome"].startswith("rejected: rejected at")
    assert heard.kinds == ["rejected"]


def test_a_rejected_version_may_be_approved_later(register: Register, heard: Heard) -> None:
    decide(register, "2", NO, RULES, tell=heard)
    decide(register, "2", YES, RULES, tell=heard)
    assert named(register) == ("2", None)
    assert heard.kinds == ["rejected", "approved"]


def test_the_champion_is_not_rejected_but_rolled_back(register: Register, heard: Heard) -> None:
    reset(register, champion="1")
    with pytest.raises(ReviewError, match="is the champion: fedllm rollback"):
        decide(register, "1", NO, RULES, tell=heard)
    with pytest.raises(ReviewError, match="champion already, without a review"):
        decide(register, "1", YES, RULES, tell=heard)


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
        said(approve=True, reviewer=reviewer, reason=reason)


def test_a_name_that_is_on_record_already_is_read_as_it_was() -> None:
    assert said(approve=True, reviewer="Ann Example (asserted)", reason="x").reviewer == "Ann Example"


# Crashes.


BEFORE = {"champion": "1", "previous": "3"}


def test_whenever_a_promotion_is_killed_the_next_call_ends_it(register: Register) -> None:
    reset(register, **BEFORE)
    decide(register, "2", YES, RULES, tell=Heard())
    wanted = state(register)
    assert named(register) == ("2", "1")
    for life in range(40):
        reset(register, **BEFORE)
        heard = Heard()
        try:
            decide(dying(register, life), "2", YES, RULES, tell=heard)
        except Killed:
            decide(register, "2", YES, RULES, tell=heard)
        else:
            break
        assert state(register) == wanted, f"killed before write {life}"
        assert heard.kinds == ["approved"], f"killed before write {life}"
    assert life > 8, "a promotion writes more often than that"
    decide(register, "2", YES, RULES, tell=heard)
    assert (state(register), heard.kinds) == (wanted, ["approved"]), "once more changes nothing"


def test_a_promotion_that_was_killed_between_the_aliases_can_be_rejected(register: Register) -> None:
    reset(register, **BEFORE)
    dead = Mortal(register.client, 40)
    dead.deadly = "champion"
    with pytest.raises(Killed):
        decide(replace(register, client=dead), "2", YES, RULES, tell=Heard())
    assert named(register) == ("1", "1")
    with pytest.raises(ReviewError, match="broke off: decide on it again first"):
        roll_back(register, "Ann", "a doubt", tell=Heard())
    decide(register, "2", NO, RULES, tell=Heard())
    assert named(register) == ("1", "3")


def test_whenever_a_rollback_is_killed_the_next_call_ends_it(register: Register) -> None:
    reset(register, champion="3")
    decide(register, "1", YES, Rules(allowed_loss=1.0), tell=Heard())
    record = register.tags("1")["review.record"]

    def promoted() -> None:
        reset(register, champion="2", previous="1")
        register.tag("1", {"review.record": record})

    promoted()
    roll_back(register, "Ann", "a doubt", tell=Heard())
    wanted = state(register)
    assert named(register) == ("1", "3"), "what version 1 had replaced is what it can go back to"
    for life in range(40):
        promoted()
        heard = Heard()
        try:
            roll_back(dying(register, life), "Ann", "a doubt", tell=heard)
        except Killed:
            champion, previous = named(register)
            assert champion != previous, f"killed before write {life}"
            roll_back(register, "Ann", "a doubt", tell=heard)
        else:
            break
        assert state(register) == wanted, f"killed before write {life}"
        assert heard.kinds == ["rolled-back"]
    assert life > 5


# Others decide as well.


def test_a_decision_about_another_champion_is_void(register: Register, heard: Heard) -> None:
    reset(register, champion="1")
    decide(register, "3", YES, RULES, tell=heard)
    with pytest.raises(
        ReviewError, match=r"changed since the card was shown \(it was version 1, now version 3\)"
    ):
        decide(register, "2", YES, RULES, tell=heard, expect="1")
    with pytest.raises(ReviewError, match=r"it was none, now version 3"):
        decide(register, "2", YES, RULES, tell=heard, expect=None)
    assert named(register) == ("3", "1")
    assert "review.record" not in register.tags("2")


def test_two_approvals_at_once_end_as_one_after_the_other(register: Register, heard: Heard) -> None:
    reset(register, champion="1")
    came: dict[str, str] = {}

    def approve(version: str) -> None:
        try:
            decide(register, version, YES, RULES, tell=heard, expect="1")
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


# The way back.


def test_without_a_previous_champion_there_is_no_way_back(register: Register, heard: Heard) -> None:
    with pytest.raises(ReviewError, match="has no champion"):
        roll_back(register, "Ann", "a doubt", tell=heard)
    reset(register, champion="1")
    with pytest.raises(ReviewError, match="no previous champion: there is nothing to roll back to"):
        roll_back(register, "Ann", "a doubt", tell=heard)
    assert not heard


def test_a_version_that_was_rolled_back_can_be_promoted_anew(register: Register, heard: Heard) -> None:
    for version in ("1", "2"):
        decide(register, version, YES, RULES, tell=heard)
    roll_back(register, "Ann", "a doubt", tell=heard)
    assert named(register) == ("1", None)
    assert register.tags("2")["review.outcome"].startswith("approved: rolled back to version 1")
    decide(register, "2", YES, RULES, tell=heard)
    assert named(register) == ("2", "1")
    assert heard.kinds == ["approved", "approved", "rolled-back", "approved"]


def test_other_words_roll_back_once_more_though_the_last_record_was_left_behind(
    register: Register, heard: Heard
) -> None:
    for version in ("1", "2", "3"):
        decide(register, version, YES, RULES, tell=heard)
    done = roll_back(register, "Ann", "a doubt", tell=heard)
    left = json.dumps(asdict(done))  # as a process leaves it that is killed before its last write
    register.tag_model("rollback.record", left)
    roll_back(register, "Ann", "a doubt", tell=heard)
    assert named(register) == ("2", "1"), "the same words repeat what was done"
    register.tag_model("rollback.record", left)
    roll_back(register, "Bob", "another doubt", tell=heard, expect="2")
    assert named(register) == ("1", None)


def test_a_decision_that_was_copied_to_another_version_is_none_about_it(
    register: Register, heard: Heard, tmp_path: Path
) -> None:
    ann = create_identity(tmp_path / "ann", "ann")
    decide(register, "3", YES, RULES, tell=heard, signer=ann)
    copied = {name: value for name, value in register.tags("3").items() if name.startswith("review.")}
    del copied["review.applied"]
    register.tag("2", copied)
    assert "Decided before" not in render_review(look(register, "2", RULES), Links("http://mlflow"))
    reset(register, champion="2")
    register.tag("2", copied)
    with pytest.raises(ReviewError, match="champion already, without a review"):
        decide(register, "2", YES, RULES, tell=heard)
    assert named(register) == ("2", None)


@pytest.mark.parametrize("change", [{"reason": 7}, {"verdict": "perhaps"}, {"model_sha256": "f" * 64}])
def test_a_record_that_cannot_be_one_is_none(
    register: Register, heard: Heard, change: dict[str, object]
) -> None:
    decide(register, "2", NO, RULES, tell=heard)
    record = json.loads(register.tags("2")["review.record"]) | change
    by_hand(register, "2", record=json.dumps(record))
    assert decision_on(register.name, "2", register.tags("2")) is None
    assert "Decided before" not in render_review(look(register, "2", RULES), Links("http://mlflow"))


def test_a_signature_that_is_none_is_said_so_wherever_the_reviewer_is_named(
    register: Register, heard: Heard
) -> None:
    decide(register, "2", YES, RULES, tell=heard)
    record = json.loads(register.tags("2")["review.record"]) | {"signed": "abcd-efgh"}
    by_hand(register, "2", record=json.dumps(record))
    done = decide(register, "2", YES, RULES, tell=heard)
    assert done.who.startswith("Ann Example (NOT signed: ")
    by_hand(register, "2", applied="")
    decide(register, "2", YES, RULES, tell=heard)
    assert "NOT signed" in heard[-1].payload["reviewer"]
    assert "NOT signed" in register.tags("2")["review.reviewer"]


def test_a_signed_payload_that_is_no_statement_is_found_out(
    register: Register, heard: Heard, tmp_path: Path
) -> None:
    ann = create_identity(tmp_path / "ann", "ann")
    decide(register, "2", NO, RULES, tell=heard, signer=ann)
    envelope = Envelope(b"\xff no JSON", PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(ann.signing))
    by_hand(register, "2", envelope=json.dumps(envelope.to_dict()))
    assert "NOT signed" in render_review(look(register, "2", RULES), Links("http://mlflow"))


def test_what_people_write_beside_the_metrics_stops_nothing(register: Register) -> None:
    reset(register, champion="1")
    register.tag("1", {"eval.note": "good"})
    try:
        assert look(register, "2", RULES).gates[0].verdict == "pass"
        assert Tracker(register.uri).champion_metrics(register.name) == {"accuracy": 0.75, "loss": 0.5}
    finally:
        register.tag("1", {"eval.note": None})


# Signatures.


def test_a_signature_can_be_checked_again_and_an_edited_record_is_found_out(
    register: Register, heard: Heard, tmp_path: Path
) -> None:
    ann = create_identity(tmp_path / "ann", "ann")
    reset(register, champion="1")
    decide(register, "2", YES, RULES, tell=heard, signer=ann)
    tags = register.tags("2")
    mark = fingerprint(ann.public)
    assert tags["review.reviewer"] == f"Ann Example (signed {mark})"
    taken = decision_on(register.name, "2", tags)
    assert taken is not None
    assert verify_decision(taken, tags) == mark
    told = render_review(look(register, "2", RULES), Links("http://mlflow"))
    assert f"approved by Ann Example (signed {mark})" in told
    for change in (
        {"reviewer": "Bob"},
        {"reason": "?"},
        {"version": "3"},
        {"replaces": None},
        {"approve": False},
    ):
        assert "NOT signed" in vouched(replace(taken, **change), tags)
    bob = create_identity(tmp_path / "bob", "bob")
    forged = tags | {"review.key": bob.public.model_dump_json()}
    with pytest.raises(ReviewError, match="does not hold"):
        verify_decision(taken, forged)
    with pytest.raises(ReviewError, match="was signed by"):
        verify_decision(replace(taken, signed=fingerprint(bob.public)), tags)
    with pytest.raises(ReviewError, match="is not signed"):
        verify_decision(replace(taken, signed=None), tags)


def test_an_unsigned_decision_leaves_no_older_signature_behind(
    register: Register, heard: Heard, tmp_path: Path
) -> None:
    ann = create_identity(tmp_path / "ann", "ann")
    decide(register, "2", NO, RULES, tell=heard, signer=ann)
    decide(register, "2", YES, RULES, tell=heard)
    tags = register.tags("2")
    assert tags["review.reviewer"] == "Ann Example (asserted)"
    assert not {"review.envelope", "review.key"} & tags.keys()


# Tags that people set.


def by_hand(register: Register, version: str, **tags: str) -> None:
    for name, value in tags.items():
        register.client.set_model_version_tag(register.name, version, f"review.{name}", value)


def test_a_tag_approves_once(register: Register, heard: Heard) -> None:
    reset(register, champion="1")
    by_hand(register, "2", status="approved", reviewer="Bob", reason="as good")
    (done,) = act_on_tags(register, RULES, tell=heard)
    assert (done.version, done.outcome[:24]) == ("2", "approved: champion since")
    assert named(register) == ("2", "1")
    assert register.tags("2")["review.reviewer"] == "Bob (asserted)"
    roll_back(register, "Ann", "a doubt", tell=heard)
    assert act_on_tags(register, RULES, tell=heard) == []
    assert named(register) == ("1", None)
    assert heard.kinds == ["approved", "rolled-back"]


def test_tags_that_are_set_one_after_the_other_are_waited_for(register: Register, heard: Heard) -> None:
    by_hand(register, "2", status="approved")
    act_on_tags(register, RULES, tell=heard)
    assert register.tags("2")["review.outcome"] == "waits for review.reviewer and review.reason"
    by_hand(register, "2", reviewer="Bob", reason="as good")
    act_on_tags(register, RULES, tell=heard)
    assert named(register) == ("2", None)


def test_a_failing_gate_refuses_a_tag_once_and_a_deleted_outcome_asks_again(
    register: Register, heard: Heard
) -> None:
    reset(register, champion="1")
    by_hand(register, "4", status="approved", reviewer="Bob", reason="as good")
    (done,) = act_on_tags(register, RULES, tell=heard)
    assert "quality: fail" in done.outcome
    assert act_on_tags(register, RULES, tell=heard) == []
    assert (named(register), heard.kinds) == (("1", None), ["refused"])
    register.client.delete_model_version_tag(register.name, "4", "review.outcome")
    act_on_tags(register, Rules(allowed_loss=1.0), tell=heard)
    assert named(register) == ("4", "1")


def test_a_changed_mind_is_a_new_decision(register: Register, heard: Heard) -> None:
    by_hand(register, "2", status="rejected", reviewer="Bob", reason="no")
    act_on_tags(register, RULES, tell=heard)
    by_hand(register, "2", status="approved", reviewer="Bob", reason="yes")
    act_on_tags(register, RULES, tell=heard)
    assert named(register) == ("2", None)
    assert heard.kinds == ["rejected", "approved"]


@pytest.mark.parametrize("first", ["reviewer", "reason"])
def test_another_status_waits_for_words_of_its_own(register: Register, heard: Heard, first: str) -> None:
    decide(register, "2", NO, RULES, tell=heard)
    words = {"reviewer": "Bob", "reason": "as good"}
    by_hand(register, "2", status="approved")
    act_on_tags(register, RULES, tell=heard)
    waits = "waits for review.reviewer and review.reason to be set anew"
    assert register.tags("2")["review.outcome"] == waits
    by_hand(register, "2", **{first: words.pop(first)})
    act_on_tags(register, RULES, tell=heard)
    (other,) = words
    assert register.tags("2")["review.outcome"] == f"waits for review.{other} to be set anew"
    assert named(register) == (None, None)
    by_hand(register, "2", **words)
    act_on_tags(register, RULES, tell=heard)
    assert named(register) == ("2", None)
    assert register.tags("2")["review.reviewer"] == "Bob (asserted)"


def test_a_name_that_imitates_a_signature_is_refused_in_a_tag(register: Register, heard: Heard) -> None:
    by_hand(register, "2", status="approved", reviewer="Bob (signed abcd-efgh)", reason="as good")
    (done,) = act_on_tags(register, RULES, tell=heard)
    assert done.outcome.startswith("approved: refused, the reviewer")
    assert named(register) == (None, None)


def test_a_tags_decision_that_broke_off_is_not_taken_over_another_champion(
    register: Register, heard: Heard
) -> None:
    reset(register, champion="1")
    by_hand(register, "2", status="approved", reviewer="Bob", reason="as good")
    with pytest.raises(Killed):
        act_on_tags(dying(register, 5), RULES, tell=heard)
    assert "review.record" in register.tags("2")
    decide(register, "3", YES, RULES, tell=heard)
    (done,) = act_on_tags(register, RULES, tell=heard)
    assert "changed since the card was shown" in done.outcome
    assert named(register) == ("3", "1")


def test_other_words_in_the_tag_are_nobodys_decision(register: Register, heard: Heard) -> None:
    by_hand(register, "2", status="pending", reviewer="Bob", reason="later")
    assert act_on_tags(register, RULES, tell=heard) == []


# The card.


def test_the_card_shows_what_is_decided_by(register: Register) -> None:
    reset(register, champion="1")
    card = render_review(look(register, "2", RULES), Links("http://mlflow", "http://prefect"))
    assert "# reviewed, version 2: may it be champion?" in card
    assert "it would replace version 1" in card
    assert "| quality | pass | +2.5 points of accuracy (95 %: " in card
    assert "| budget | not observable | no DP configured: there is no budget to keep to |" in card
    assert "| accuracy | 77.5 % | 50.0 % | 75.0 % |" in card
    assert "| amazon | yes | accepted | - |" in card
    assert "http://mlflow/#/models/reviewed/versions/2" in card
    assert "✓" not in card


def test_the_challenger_is_looked_at_where_no_version_is_named(register: Register) -> None:
    assert look(register, None, RULES).version.version == "4"
    with pytest.raises(ReviewError, match="has no version 9"):
        look(register, "9", RULES)
    with pytest.raises(ReviewError, match="MLflow has no model nobody"):
        look(replace(register, name="nobody"), None, RULES)


def test_whoever_is_champion_may_be_replaced_where_nobody_was_shown(register: Register, heard: Heard) -> None:
    reset(register, champion="1")
    decide(register, "2", YES, RULES, tell=heard, expect=WHOEVER)
    assert named(register)[0] == "2"

"""What a site may not do, and what it costs the others: nothing."""

import os
from pathlib import Path

import pytest
from sqlalchemy import text as sql

from fedllm.coordinator import quota
from fedllm.coordinator.aggregate import aggregate
from fedllm.coordinator.dp_audit import dp_audit
from fedllm.coordinator.evaluate import evaluate
from fedllm.coordinator.live_sites import live_sites
from fedllm.coordinator.payloads import forget_updates, keep_update
from fedllm.coordinator.remote_local_train import GRACE
from fedllm.coordinator.round_keys import destroy_stale_keys, round_identity, round_recipient
from fedllm.coordinator.steps import DISPATCH, JournaledRunner
from fedllm.coordinator.training import Training
from fedllm.errors import ExchangeError, ObjectNotFoundError, RefusedError
from fedllm.journal.location import coordinator_folder
from fedllm.journal.outcomes import Aggregated, Audited, FailedRound
from fedllm.protocol.messages import Answer, Update
from fedllm.secure.sealing import unseal
from tests.coordinator.played import PlayedRound, PlayedSite, begin_round


def play_audit(round_: PlayedRound) -> Audited:
    return round_.training.journal.once(round_.training.run, round_.number, "dp-audit", Audited, round_.audit)


@pytest.fixture
def honest(training: Training, sites: dict[str, PlayedSite]) -> PlayedRound:
    """A round in which all sites have done what was asked."""
    begun = begin_round(training, sites)
    begun.take_part()
    return begun


def left_out(audited: Audited) -> dict[str, str]:
    return {verdict.site: verdict.reason for verdict in audited.verdicts if not verdict.accepted}


def kinds(training: Training) -> list[tuple[str, str]]:
    return [(event.kind, event.party) for event in training.journal.security.events(training.run)]


def test_honest_updates_all_count_and_leave_no_security_event(honest: PlayedRound) -> None:
    audited = honest.audit()
    assert [counted.site for counted in audited.counted] == ["amazon", "movies", "nyt"]
    assert honest.training.journal.security.events() == []


def test_two_signed_updates_for_one_round_cost_the_site_its_part(honest: PlayedRound) -> None:
    outcomes = honest.outcomes()
    site = honest.sites["movies"]
    site.take_part(honest.plan, honest.plan_sha256, scale=2e-4)
    audited = dp_audit(honest.training, honest.number, outcomes)
    assert left_out(audited) == {"movies": "equivocation: it signed two different updates for one round"}
    assert kinds(honest.training) == [("equivocation", "movies")]


def test_a_pinned_update_that_somebody_else_wrote_over_still_counts(honest: PlayedRound) -> None:
    outcomes = honest.outcomes()
    key = honest.training.layout.update("movies", "run-1", 1)
    honest.training.mailbox.store.put(key, b"not an envelope")
    audited = dp_audit(honest.training, honest.number, outcomes)
    assert left_out(audited) == {}
    assert kinds(honest.training) == [("refused", "movies")]


def test_an_update_that_came_after_the_deadline_does_not_count(honest: PlayedRound, tmp_path: Path) -> None:
    late = honest.plan.deadline + GRACE + 1
    os.utime(tmp_path / "store" / honest.training.layout.update("movies", "run-1", 1), (late, late))
    assert left_out(honest.audit()) == {"movies": "silent: the update came after the deadline"}


def test_other_objects_under_the_round_break_the_quota(honest: PlayedRound) -> None:
    prefix = honest.training.layout.round_prefix("nyt", "run-1", 1)
    for number in range(50):
        honest.sites["nyt"].store.put(f"{prefix}junk-{number}", b"x")
    audited = honest.audit()
    assert "'junk-0'" in left_out(audited)["nyt"]
    assert kinds(honest.training) == [("quota", "nyt")]


def test_a_huge_object_under_an_expected_name_breaks_the_quota(honest: PlayedRound) -> None:
    outcomes = honest.outcomes()
    key = honest.training.layout.payload("nyt", "run-1", 1)
    honest.sites["nyt"].store.put(key, bytes(honest.plan.most_bytes + Answer.largest + Update.largest + 1))
    assert "its quota is" in left_out(dp_audit(honest.training, honest.number, outcomes))["nyt"]


def test_more_objects_than_a_site_may_keep_in_all_break_the_quota(
    honest: PlayedRound, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota, "MOST_OBJECTS", 20)
    prefix = honest.training.layout.site_prefix("nyt")
    for number in range(20):
        honest.sites["nyt"].store.put(f"{prefix}other/{number}", b"x")
    assert "more than 20 objects in all" in left_out(honest.audit())["nyt"]


def test_a_replayed_card_does_not_make_a_site_live(training: Training, sites: dict[str, PlayedSite]) -> None:
    key = training.layout.card("nyt")
    sites["nyt"].show_card()
    old = training.mailbox.store.get(key, limit=10_000)
    begin_round(training, sites)
    training.mailbox.store.put(key, old)
    for name in ("amazon", "movies"):
        sites[name].show_card()
    assert sorted(live_sites(training, 2)) == ["amazon", "movies"]
    assert ("replay", "nyt") in kinds(training)


def test_after_the_aggregate_nothing_opens_a_single_update_any_more(honest: PlayedRound) -> None:
    training = honest.training
    play_audit(honest)
    store, run = training.mailbox.store, training.run
    key = training.layout.payload("nyt", run, 1)
    kept = store.get(key, limit=10**7)
    training.journal.once(run, 1, "aggregate", Aggregated, lambda: aggregate(training, 1))
    with training.journal.read() as session:
        row = session.execute(sql("select sealed from round_key")).scalar_one()
    files = list(coordinator_folder("played").glob("journal.db*"))
    assert any(row in path.read_bytes() for path in files)
    assert round_identity(training, 1).name == "coordinator"
    evaluate(training, 1)
    assert not any(row in path.read_bytes() for path in files if path.exists())
    with pytest.raises(RefusedError, match="destroyed"):
        round_identity(training, 1)
    with pytest.raises(ObjectNotFoundError):
        store.get(key, limit=10**7)
    assert not list(training.folder.glob("*.update"))
    # A copy of the store and the coordinator's long-term keys open nothing.
    with pytest.raises(RefusedError):
        unseal(kept, training.mailbox.me)


def test_a_round_that_is_over_forgets_its_own_updates_and_no_other_rounds(honest: PlayedRound) -> None:
    training = honest.training
    (first, *_) = play_audit(honest).counted
    keep_update(training, first.payload, 12, b"an update of a later round")
    forget_updates(training, 1, honest.plan.sites)
    assert [path.read_bytes() for path in training.folder.glob("*.update")] == [b"an update of a later round"]
    forget_updates(training, 12, honest.plan.sites)
    assert not list(training.folder.glob("*.update"))


def test_a_round_keeps_its_key_over_a_restart_and_no_two_rounds_share_one(
    training: Training, sites: dict[str, PlayedSite]
) -> None:
    first = round_recipient(training, 1)
    assert round_recipient(training, 1) == first
    assert round_recipient(training, 2) != first
    assert first != training.mailbox.me.public.recipient
    assert sites


def test_a_store_that_wraps_an_honest_update_anew_frames_nobody(honest: PlayedRound) -> None:
    outcomes = honest.outcomes()
    store, key = honest.training.mailbox.store, honest.training.layout.update("movies", "run-1", 1)
    store.put(key, store.get(key, limit=10**6) + b" ")
    audited = dp_audit(honest.training, honest.number, outcomes)
    assert left_out(audited) == {}
    assert kinds(honest.training) == [("refused", "movies")]


def test_a_round_goes_on_though_the_store_lost_plan_and_model(honest: PlayedRound) -> None:
    """What the coordinator signed and sealed is read from its own disk, and shown again when it resumes."""
    training, store = honest.training, honest.training.mailbox.store
    key = training.layout.plan("run-1", 1)
    plan = store.get(key, limit=10**6)
    store.delete(key)
    store.delete(honest.plan.model.key)
    assert JournaledRunner(training).run(DISPATCH, 1).plan_sha256 == honest.plan_sha256
    assert store.get(key, limit=10**6) == plan
    assert store.stat(honest.plan.model.key).size == honest.plan.model.sealed_bytes
    assert len(honest.audit().counted) == len(honest.sites)


def test_keys_that_a_killed_coordinator_left_are_destroyed_when_it_resumes(honest: PlayedRound) -> None:
    training = honest.training
    training.journal.once("run-1", 1, "failed", FailedRound, lambda: FailedRound(reason="by a test"))
    assert round_identity(training, 1)
    destroy_stale_keys(training)
    with pytest.raises(RefusedError, match="destroyed"):
        round_identity(training, 1)


def test_what_a_site_writes_into_a_reason_is_one_printable_line(honest: PlayedRound) -> None:
    site = honest.sites["nyt"]
    reason = "no\x00\nfedllm: all is well\x1b[2J"
    site.answer(honest.plan, honest.plan_sha256, decision="decline", reason=reason)
    assert honest.wait("nyt").reason == "no??fedllm: all is well?[2J"
    honest.training.journal.security.record("refused", "nyt", "a\x00\nb")
    assert honest.training.journal.security.events()[-1].reason == "a??b"


def test_a_store_that_is_away_when_the_deadline_has_passed_makes_no_site_silent(
    honest: PlayedRound, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The update had come in time: whether it had can be said once the store answers again."""

    def away(*_arguments: object, **_named: object) -> bytes:
        raise ExchangeError("the store does not answer")

    later = honest.plan.deadline + GRACE + 1
    with monkeypatch.context() as patch:
        patch.setattr(honest.training.mailbox.store, "get", away)
        patch.setattr(Training, "now", lambda _self: later)
        with pytest.raises(ExchangeError):
            honest.wait("nyt")
    assert honest.wait("nyt").status == "updated"

"""What Prefect hears of a training: each event once, and nothing private in it."""

import contextlib
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from prefect.events.schemas.events import Event, Resource
from prefect.types._datetime import now

from fedllm.errors import CancelledError, LeaseError, RoundError
from fedllm.journal.journal import Journal
from fedllm.journal.outcomes import Audited, Evaluated, FailedRound, Outcome, Released
from fedllm.journal.runs import begin_run
from fedllm.protocol.messages import Verdict
from fedllm.protocol.terms import PrivacyPlan
from flows import events, watch

if TYPE_CHECKING:
    from fedllm.coordinator.training import Training

PLAN = PrivacyPlan(
    unit="record",
    epsilon=3.0,
    delta=1e-5,
    clip=1.0,
    rounds=3,
    steps=5,
    min_honest=2,
    sampling_rate=0.1,
    noise_multiplier=1.0,
)


class Heard:
    """Takes down every event, as Prefect's own schema takes it."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: str, resource: dict[str, str], **more: Any) -> None:  # noqa: ANN401 - as Prefect's
        given = {name: value for name, value in more.items() if value is not None}
        self.events.append(Event(event=event, resource=Resource(resource), occurred=now("UTC"), **given))


@pytest.fixture(autouse=True)
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    taken = Heard()
    monkeypatch.setattr(events, "emit_event", taken.emit)
    return taken


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Training"]:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path))
    privacy = SimpleNamespace(on=True)
    with closing(Journal("trial", f"sqlite:///{tmp_path / 'journal.db'}")) as journal:
        begin_run(journal, "run-1", "{}")
        journal.commit_bytes("trial/privacy/run-1", PLAN.model_dump_json().encode)
        made = SimpleNamespace(
            config=SimpleNamespace(name="trial", privacy=privacy, rounds=SimpleNamespace(max=PLAN.rounds)),
            run="run-1",
            journal=journal,
            prefect_flow_run=None,
        )
        yield cast("Training", made)


def verdict(site: str, epsilon: float | None, reason: str = "") -> Verdict:
    return Verdict(site=site, accepted=not reason, reason=reason, checks={}, privacy="", epsilon=epsilon)


def audited(training: "Training", number: int, *verdicts: Verdict) -> Audited:
    done = Audited(closed_sha256="0" * 64, counted=(), verdicts=verdicts)
    keep(training, number, "dp-audit", done)
    return done


def keep(training: "Training", number: int, step: str, outcome: Outcome) -> None:
    training.journal.once(training.run, number, step, type(outcome), lambda: outcome)


def test_a_training_that_goes_as_planned_tells_of_no_budget_though_it_spends_all(
    training: "Training", heard: Heard
) -> None:
    for number, spent in ((1, 1.9), (2, 2.75), (3, 2.9997)):
        audited(training, number, verdict("amazon", spent))
        events.emit_low_budgets(training, number)
    assert heard.events == []


def test_a_budget_that_was_low_already_is_told_once_a_failed_round_has_to_be_made_up_for(
    training: "Training", heard: Heard
) -> None:
    audited(training, 1, verdict("amazon", 2.8))
    events.emit_low_budgets(training, 1)
    keep(training, 2, "failed", FailedRound(reason="nobody came"))
    audited(training, 3, verdict("amazon", 2.9))
    events.emit_low_budgets(training, 3)
    (event,) = heard.events
    assert (event.payload["site"], event.payload["round"]) == ("amazon", 3)


def test_a_site_with_less_than_a_tenth_of_its_epsilon_left_is_told_once_a_run(
    training: "Training", heard: Heard
) -> None:
    training.config.rounds.max = 4  # type: ignore[misc]  # a stand-in here; the plan pays for three
    audited(training, 1, verdict("amazon", 2.0), verdict("movies", 2.69))
    events.emit_low_budgets(training, 1)
    assert heard.events == []
    audited(training, 2, verdict("amazon", 2.71), verdict("movies", 2.69))
    audited(training, 3, verdict("amazon", 2.9), verdict("movies", None, "silent: nothing came"))
    for number in (2, 3):
        events.emit_low_budgets(training, number)
    (event,) = heard.events
    assert (event.event, event.payload["site"], event.payload["round"]) == ("fedllm.budget.low", "amazon", 2)
    assert event.payload["epsilon_spent"] == 2.71
    assert event.resource.id == "fedllm.federation.trial"
    assert [one.id for one in event.related] == ["fedllm.run.run-1", "fedllm.site.trial.amazon"]


def test_a_training_that_its_budget_ends_tells_of_every_site_that_was_not_told_of(
    training: "Training", heard: Heard
) -> None:
    audited(training, 1, verdict("amazon", 2.0), verdict("movies", 1.0))
    audited(training, 2, verdict("amazon", 2.8), verdict("movies", 1.5))
    keep(training, 3, "failed", FailedRound(reason="nobody came"))
    events.emit_spent_budgets(training)
    (event,) = heard.events
    assert (event.payload["site"], event.payload["round"]) == ("amazon", 2)
    events.emit_spent_budgets(training)
    assert [one.id for one in heard.events] == [event.id] * 2
    training.config.privacy.on = False  # type: ignore[misc]  # a stand-in here
    events.emit_spent_budgets(training)
    assert len(heard.events) == 2


def test_without_dp_no_budget_is_low(training: "Training", heard: Heard) -> None:
    training.config.privacy.on = False  # type: ignore[misc]  # a stand-in here
    audited(training, 1, verdict("amazon", None))
    events.emit_low_budgets(training, 1)
    assert heard.events == []


def test_an_event_that_is_told_again_after_a_resume_has_the_same_id(
    training: "Training", heard: Heard
) -> None:
    training.config.rounds.max = 4  # type: ignore[misc]  # a stand-in here; the plan pays for three
    audited(training, 1, verdict("amazon", 2.9))
    for _ in range(2):
        events.emit_low_budgets(training, 1)
    first, second = heard.events
    assert first.id == second.id


def test_who_failed_and_who_was_left_out_are_told_apart(training: "Training", heard: Heard) -> None:
    done = audited(
        training,
        1,
        verdict("amazon", 1.0),
        verdict("movies", 1.0, "declined: outside working hours"),
        verdict("nyt", 1.0, "norm: too large"),
    )
    events.emit_site_failures(training, 1, done, {"movies": "declined"})
    assert {(event.event, event.payload["site"], event.payload["reason"]) for event in heard.events} == {
        ("fedllm.site.left-out", "movies", "declined: outside working hours"),
        ("fedllm.site.failed", "nyt", "norm: too large"),
    }


def test_a_complete_round_tells_its_public_quality_and_nothing_by_site(
    training: "Training", heard: Heard
) -> None:
    audited(training, 1, verdict("amazon", 1.0))
    keep(training, 1, "evaluate", Evaluated(metrics={"accuracy": 0.9, "loss": 0.3, "accuracy/amazon": 0.8}))
    events.emit_round_completed(training, 1, Released(queued=False, name="trial", version="4"))
    (event,) = heard.events
    assert event.event == "fedllm.round.completed"
    assert event.payload == {
        "run": "run-1",
        "round": 1,
        "metrics": {"accuracy": 0.9, "loss": 0.3},
        "sites": [],
        "version": "4",
    }
    json.dumps(event.payload)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, ["fedllm.training.completed"]),
        (RoundError("too few sites"), ["fedllm.training.failed"]),
        (CancelledError("run-1 was cancelled"), ["fedllm.training.cancelled"]),
        (LeaseError("another coordinator leads"), []),
        (KeyboardInterrupt(), []),
    ],
)
def test_how_a_training_ended_is_told(
    training: "Training",
    heard: Heard,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException | None,
    expected: list[str],
) -> None:
    monkeypatch.setattr(watch, "_watch", lambda *_: None)  # its own thread asks a Prefect that is not here
    over = (RoundError, CancelledError, LeaseError, KeyboardInterrupt)
    with contextlib.suppress(*over), watch.watched(training):
        if error is not None:
            raise error
    assert [event.event for event in heard.events] == expected
    assert all(event.payload["run"] == "run-1" for event in heard.events)

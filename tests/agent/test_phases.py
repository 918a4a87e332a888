"""Phases after the training at a site: one reply to one query, made once; and plans that stay open."""

import pytest

from fedllm.agent.agent import Agent
from fedllm.agent.trainers import InlineTrainer
from fedllm.confidentiality.modes import MODES
from fedllm.config import federation as configuration
from fedllm.errors import EquivocationError, RefusedError
from fedllm.protocol.messages import Head, Plan
from fedllm.schedule.schedules import SCHEDULES
from fedllm.schedule.sync import Sync
from tests.agent.played import Coordinator, CountingTrainer, EndlessTrainer, ticks
from tests.confidentiality.two_phases import AGREE, TWO_PHASES


@pytest.fixture(autouse=True)
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let plans name the mode with two phases, and a schedule whose plans stay open."""
    monkeypatch.setitem(MODES, TWO_PHASES.name, TWO_PHASES)
    monkeypatch.setattr(configuration, "MODES", [*configuration.MODES, TWO_PHASES.name])
    monkeypatch.setitem(SCHEDULES, _Open.name, _Open())


@pytest.fixture
def asked(coordinator: Coordinator) -> str:
    """A plan of that mode, which the head names; its hash."""
    plan_sha256 = coordinator.show_plan(coordinator.plan(confidentiality=TWO_PHASES.name))
    coordinator.point(1, plan_sha256)
    return plan_sha256


def test_a_query_is_replied_to_once_and_the_same_bytes_are_shown_again(
    agent: Agent, coordinator: Coordinator, asked: str
) -> None:
    ticks(agent)
    coordinator.ask(AGREE, asked, "round 1?")
    coordinator.point(2, asked, phase=AGREE)
    ticks(agent)
    first = coordinator.reply(AGREE)
    assert first is not None
    coordinator.mailbox.store.delete(coordinator.mailbox.layout.reply("amazon", "run-a", 1, AGREE))
    coordinator.point(3, asked, phase=AGREE)  # a coordinator that was started again
    ticks(agent)
    assert coordinator.reply(AGREE) == first


def test_a_second_query_in_a_phase_is_equivocation(
    agent: Agent, coordinator: Coordinator, asked: str
) -> None:
    ticks(agent)
    coordinator.ask(AGREE, asked, "round 1?")
    coordinator.point(2, asked, phase=AGREE)
    ticks(agent)
    coordinator.ask(AGREE, asked, "round 2?")
    coordinator.point(3, asked, phase=AGREE)
    with pytest.raises(EquivocationError, match="a second query in phase agree"):
        ticks(agent)


def test_a_site_that_has_sent_no_update_replies_to_nothing(agent: Agent, coordinator: Coordinator) -> None:
    declined = coordinator.show_plan(coordinator.plan(confidentiality=TWO_PHASES.name, sites=("movies",)))
    coordinator.ask(AGREE, declined, "round 1?")
    coordinator.point(1, declined, phase=AGREE)
    with pytest.raises(RefusedError, match="has no update in round 1"):
        ticks(agent)
    assert coordinator.reply(AGREE) is None


@pytest.mark.parametrize("phase", ["agree", "unmask"])
def test_a_phase_that_the_plans_mode_has_not_is_refused(
    agent: Agent, coordinator: Coordinator, phase: str
) -> None:
    plan_sha256 = coordinator.show_plan(coordinator.plan())
    coordinator.point(1, plan_sha256)
    ticks(agent)
    coordinator.ask(phase, plan_sha256, "round 1?")
    coordinator.point(2, plan_sha256, phase=phase)
    with pytest.raises(RefusedError, match=f"mode plain has no phase {phase}"):
        ticks(agent)
    assert coordinator.reply(phase) is None


def test_the_update_goes_out_before_a_query_is_replied_to(
    agent: Agent, coordinator: Coordinator, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator.ask(AGREE, asked, "round 1?")
    with monkeypatch.context() as patch:
        patch.setattr(agent.outbox, "release_committed", lambda: None)
        ticks(agent)  # committed, and not sent
        coordinator.point(2, asked, phase=AGREE)
        ticks(agent)
        assert (coordinator.update(), coordinator.reply(AGREE)) == (None, None)
    ticks(agent)
    assert coordinator.update() is not None
    assert coordinator.reply(AGREE) is not None


class _Open(Sync):
    """A schedule whose plans stay open until the training ends."""

    name = "open"

    def is_over(self, plan: Plan, head: Head) -> bool:
        return head.state == "idle" or head.run != plan.run


@pytest.mark.parametrize(("schedule", "cancelled"), [("sync", 1), ("open", 0)])
def test_a_site_holds_a_plan_while_another_is_published_if_the_schedule_says_so(
    coordinator: Coordinator, agent: Agent, schedule: str, cancelled: int
) -> None:
    endless = EndlessTrainer()
    agent.worker.trainer = endless
    coordinator.point(1, coordinator.show_plan(coordinator.plan(schedule=schedule)))
    ticks(agent)
    second = coordinator.show_plan(coordinator.plan(2, schedule=schedule, sites=("movies",)))
    coordinator.point(2, second, number=2)
    ticks(agent)
    assert (endless.jobs, endless.cancelled) == (1, cancelled)
    assert (agent.worker.current is None) == bool(cancelled)


def test_a_plan_that_comes_while_another_is_under_way_is_taken_up_after_it(
    coordinator: Coordinator, agent: Agent, trainer: CountingTrainer
) -> None:
    agent.worker.trainer = EndlessTrainer()
    coordinator.point(1, coordinator.show_plan(coordinator.plan(schedule="open")))
    ticks(agent)
    second = coordinator.show_plan(coordinator.plan(2, schedule="open"))
    coordinator.point(2, second, number=2)
    ticks(agent)
    answer = coordinator.answer(2)
    assert answer is not None
    assert (answer.decision, trainer.jobs) == ("accept", 0)
    agent.worker.stop()
    agent.worker.trainer = trainer
    ticks(agent, 3)
    assert isinstance(trainer, InlineTrainer)
    assert coordinator.update(2) is not None

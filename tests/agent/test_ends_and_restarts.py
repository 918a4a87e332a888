"""Rounds that end early, stores that lose an upload, agents that stop and start again."""

import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fedllm.agent.agent import Agent
from fedllm.agent.job import Workbench
from fedllm.agent.join import Membership
from fedllm.errors import ExchangeError, IdentityError
from fedllm.exchange.clock import StoreClock
from fedllm.protocol.messages import Card
from tests.agent.played import RUN, SITE, Coordinator, CountingTrainer, EndlessTrainer, ticks

if TYPE_CHECKING:
    from collections.abc import Callable


def test_training_stops_when_the_round_is_over(member: Membership, coordinator: Coordinator) -> None:
    trainer = EndlessTrainer()
    with closing(Agent(member, trainer)) as agent:
        coordinator.point(1, coordinator.show_plan(coordinator.plan()))
        ticks(agent)
        coordinator.point(2, None)
        ticks(agent)
        assert (trainer.jobs, trainer.cancelled) == (1, 1)


def test_training_stops_when_the_deadline_passes(
    member: Membership, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = EndlessTrainer()
    with closing(Agent(member, trainer)) as agent:
        deadline = time.time() + 600
        coordinator.point(1, coordinator.show_plan(coordinator.plan(deadline=deadline)))
        agent.tick()
        assert (trainer.jobs, trainer.cancelled) == (1, 0)
        monkeypatch.setattr(StoreClock, "now", lambda _clock: deadline + 0.1)
        agent.tick()
        assert (trainer.jobs, trainer.cancelled) == (1, 1)


def test_a_round_that_is_over_is_not_begun_again_for_a_plan_that_waited(
    member: Membership, coordinator: Coordinator
) -> None:
    trainer = EndlessTrainer()
    with closing(Agent(member, trainer)) as agent:
        plan_sha256 = coordinator.show_plan(coordinator.plan())
        for counter, sha256 in enumerate([plan_sha256, plan_sha256, None], start=1):
            coordinator.point(counter, sha256)  # the second one as after a coordinator's restart
            agent.tick()
        ticks(agent)
        assert trainer.jobs == 1


def test_a_round_that_ended_while_the_store_was_away_is_not_begun(
    member: Membership, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = EndlessTrainer()
    with closing(Agent(member, trainer)) as agent:
        agent.tick()  # the card is shown
        coordinator.point(1, coordinator.show_plan(coordinator.plan()))
        with monkeypatch.context() as away:
            away.setattr(agent.mailbox.store, "put", lose)
            with pytest.raises(ExchangeError, match="the store is away"):
                agent.tick()
        coordinator.point(2, None)
        ticks(agent)
        assert trainer.jobs == 0


def lose(_key: str, _data: bytes) -> None:
    raise ExchangeError("the store is away")


def fail_once(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The store loses the first upload; returns what was to be uploaded, whatever came of it."""
    seen: list[bytes] = []
    store = agent.mailbox.store
    put_file: Callable[[str, Path], Any] = store.put_file

    def flaky(key: str, path: Path) -> Any:  # noqa: ANN401 - as the original
        seen.append(path.read_bytes())
        if len(seen) == 1:
            raise ExchangeError("the store is away")
        return put_file(key, path)

    monkeypatch.setattr(store, "put_file", flaky)
    return seen


def test_after_a_lost_upload_the_identical_bytes_are_sent_and_nothing_is_trained_again(
    agent: Agent, coordinator: Coordinator, trainer: CountingTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan()))
    uploads = fail_once(agent, monkeypatch)
    ticks(agent)
    assert coordinator.update() is None
    agent.tick()
    assert coordinator.update() is not None
    assert (len(uploads), uploads[0] == uploads[-1], trainer.jobs) == (2, True, 1)


def test_a_restarted_agent_sends_what_its_predecessor_committed_and_trains_nothing(
    member: Membership, coordinator: Coordinator, trainer: CountingTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan()))
    with closing(Agent(member, trainer)) as before:
        committed = fail_once(before, monkeypatch)
        ticks(before)
    with closing(Agent(member, trainer)) as after:
        ticks(after)
    payload = coordinator.mailbox.layout.payload(SITE, RUN, 1)
    assert coordinator.mailbox.store.get(payload, limit=1_000_000) == committed[0]
    assert coordinator.update() is not None
    assert trainer.jobs == 1


def test_a_second_agent_for_the_same_home_is_refused(agent: Agent, bench: Workbench) -> None:
    with pytest.raises(IdentityError, match="runs already: stop it first"):
        Agent(agent.member, CountingTrainer(bench))


def test_a_closed_agent_says_goodbye(
    member: Membership, coordinator: Coordinator, trainer: CountingTrainer
) -> None:
    Agent(member, trainer).close()
    card = coordinator.mailbox.read(coordinator.mailbox.layout.card(SITE), Card, member.identity.public)
    assert card.message.state == "stopped"

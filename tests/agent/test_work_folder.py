"""Files of work under way: for the site's eyes alone, and gone once nothing needs them."""

import os
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fedllm.agent.agent import Agent
from fedllm.agent.join import Membership
from fedllm.errors import ExchangeError
from tests.agent.played import RUN, Coordinator, CountingTrainer, EndlessTrainer, ticks


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(member: Membership) -> dict[str, str]:
    folder = member.home / "work"
    return {path.suffix: oct(stat.S_IMODE(path.stat().st_mode)) for path in [folder, *folder.iterdir()]}


class StoppedTrainer(CountingTrainer):
    """Never says that it is done, though it is."""

    def poll(self) -> None:
        return None


@pytest.mark.usefixtures("open_umask")
def test_model_and_update_are_for_their_owner_alone(
    member: Membership, coordinator: Coordinator, trainer: CountingTrainer
) -> None:
    stopped = StoppedTrainer(trainer._bench)
    with closing(Agent(member, stopped)) as agent:
        coordinator.point(1, coordinator.show_plan(coordinator.plan()))
        ticks(agent)
        assert modes(member) == {"": "0o700", ".model": "0o600", ".update": "0o600"}


@pytest.mark.usefixtures("open_umask")
def test_a_sealed_update_is_for_its_owner_alone(
    agent: Agent, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(_key: str, _path: Path) -> None:
        raise ExchangeError("the store is away")

    monkeypatch.setattr(agent.mailbox.store, "put_file", lose)
    coordinator.point(1, coordinator.show_plan(coordinator.plan()))
    ticks(agent)
    assert modes(coordinator.member) == {"": "0o700", ".sealed": "0o600"}


def test_a_start_removes_what_no_committed_work_needs(
    member: Membership, coordinator: Coordinator, trainer: CountingTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan()))
    with closing(Agent(member, trainer)) as before:
        monkeypatch.setattr(before.outbox, "release_committed", lambda: None)
        ticks(before)
    folder = member.home / "work"
    for name in ("model", "update", "sealed", "sealed.part", "sealed.sealed"):
        (folder / f"{RUN}-2.{name}").write_bytes(b"left")
    (folder / ".part-abc").write_bytes(b"left")
    with closing(Agent(member, trainer)):
        assert [path.name for path in folder.iterdir()] == [f"{RUN}-1.sealed"]


def ended_by(member: Membership, coordinator: Coordinator, **policy: float) -> EndlessTrainer:
    """An agent's trainer after a round that the policy ends within 0.2 s, and after the plan of the next."""
    limited = member.site.policy.model_copy(update=policy)
    site = member.site.model_copy(update={"policy": limited})
    trainer = EndlessTrainer()
    with closing(Agent(Membership(site, member.home, member.identity, member.invitation), trainer)) as agent:
        coordinator.point(1, coordinator.show_plan(coordinator.plan()))
        agent.tick()
        time.sleep(0.25)
        agent.tick()
        coordinator.point(2, coordinator.show_plan(coordinator.plan(2)), number=2)
        ticks(agent)
    return trainer


def test_a_training_that_takes_longer_than_the_policy_allows_is_ended_and_the_next_plan_is_taken(
    member: Membership, coordinator: Coordinator
) -> None:
    trainer = ended_by(member, coordinator, max_training=0.2)
    update, answer = coordinator.update(), coordinator.answer(2)
    assert update is not None
    assert update.failed == "the training exceeded the policy's 0.2 s"
    assert answer is not None
    assert answer.decision == "accept"
    assert (trainer.jobs, trainer.cancelled) == (2, 2)  # the second one as the agent ends


def test_the_policys_seconds_of_a_run_end_the_training_and_are_told(
    member: Membership, coordinator: Coordinator
) -> None:
    trainer = ended_by(member, coordinator, max_seconds=0.2)
    update, answer = coordinator.update(), coordinator.answer(2)
    assert update is not None
    assert update.failed == "the policy's 0.2 s of training per run are spent"
    assert answer is not None
    assert answer.decision == "decline"
    assert trainer.jobs == 1

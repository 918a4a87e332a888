"""Heads, rosters and plans that are not what they should be are refused, and the agent goes on."""

from contextlib import closing
from pathlib import Path

import pytest

from fedllm.agent.agent import Agent
from fedllm.agent.join import Membership
from fedllm.errors import RefusedError
from fedllm.protocol.messages import COORDINATOR, EVERYONE, Head, Roster
from fedllm.secure.envelope import sign
from fedllm.secure.identity import create_identity
from tests.agent.played import RUN, Coordinator, CountingTrainer, ticks


def test_a_roster_without_this_sites_keys_is_refused(agent: Agent, coordinator: Coordinator) -> None:
    roster = Roster(
        federation=coordinator.config.name,
        sender=COORDINATOR,
        receiver=EVERYONE,
        roster_version=2,
        coordinator=coordinator.me.public,
        sites=(),
    )
    coordinator.mailbox.store.put(coordinator.mailbox.layout.roster, sign(roster, coordinator.me))
    coordinator.point(1, coordinator.show_plan(coordinator.plan()))
    with pytest.raises(RefusedError, match="the roster does not hold this site's keys"):
        agent.tick()


def test_a_head_of_a_lower_epoch_is_refused(agent: Agent, coordinator: Coordinator) -> None:
    coordinator.point(1, None, epoch=5)
    agent.tick()
    coordinator.point(2, None, epoch=4)
    with pytest.raises(RefusedError, match=r"epoch/fed/\w+ 4 is below 5"):
        agent.tick()


def test_a_replayed_head_of_a_lower_counter_is_refused(agent: Agent, coordinator: Coordinator) -> None:
    coordinator.point(1, None)
    replayed = coordinator.mailbox.store.get(coordinator.mailbox.layout.head, limit=Head.largest)
    agent.tick()
    coordinator.point(2, None)
    agent.tick()
    coordinator.mailbox.store.put(coordinator.mailbox.layout.head, replayed)
    with pytest.raises(RefusedError, match=r"head/fed/\w+ 1 is below 2"):
        agent.tick()


def test_a_head_replayed_after_a_restart_is_refused(
    member: Membership, coordinator: Coordinator, trainer: CountingTrainer
) -> None:
    coordinator.point(2, None)
    with closing(Agent(member, trainer)) as before:
        before.tick()
    coordinator.point(1, None)
    with (
        closing(Agent(member, trainer)) as after,
        pytest.raises(RefusedError, match=r"head/fed/\w+ 1 is below 2"),
    ):
        after.tick()


def test_a_refused_head_is_refused_once_and_the_agent_goes_on(agent: Agent, coordinator: Coordinator) -> None:
    coordinator.point(2, None)
    agent.tick()
    coordinator.point(1, None)
    with pytest.raises(RefusedError):
        agent.tick()
    agent.tick()
    coordinator.point(3, coordinator.show_plan(coordinator.plan()))
    ticks(agent)
    assert coordinator.update() is not None


def test_a_second_plan_for_the_same_round_is_refused(agent: Agent, coordinator: Coordinator) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan()))
    ticks(agent)
    coordinator.point(2, coordinator.show_plan(coordinator.plan(rounds=4)))
    with pytest.raises(RefusedError, match=f"a second plan for round 1 of {RUN}"):
        agent.tick()


def test_a_plan_whose_hash_is_not_the_heads_is_refused(
    agent: Agent, coordinator: Coordinator, trainer: CountingTrainer
) -> None:
    coordinator.show_plan(coordinator.plan())
    coordinator.point(1, "0" * 64)
    with pytest.raises(RefusedError, match=r"not the one that head\.json names"):
        agent.tick()
    agent.tick()
    assert (trainer.jobs, coordinator.answer()) == (0, None)


def test_a_plan_signed_by_another_key_is_refused(
    agent: Agent, coordinator: Coordinator, tmp_path: Path
) -> None:
    impostor = create_identity(tmp_path / "impostor", COORDINATOR)
    coordinator.point(1, coordinator.show_plan(coordinator.plan(), impostor))
    with pytest.raises(RefusedError, match="signature is not coordinator's"):
        agent.tick()


def test_a_plan_of_an_epoch_above_the_heads_is_refused(agent: Agent, coordinator: Coordinator) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan(epoch=2)))
    with pytest.raises(RefusedError, match=r"from an epoch above head\.json's"):
        agent.tick()

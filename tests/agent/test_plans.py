"""What an agent makes of a plan: its answer, its training, its update."""

import time

import pytest

from fedllm.agent.agent import Agent
from fedllm.config import LocalConfig
from fedllm.errors import RefusedError
from fedllm.models.codec import decode_flat
from fedllm.protocol.messages import Card
from tests.agent.played import ADAPTER, SITE, Coordinator, CountingTrainer, ticks


def test_an_agent_without_a_head_shows_that_it_lives(agent: Agent, coordinator: Coordinator) -> None:
    agent.tick()
    key, site = coordinator.mailbox.layout.card(SITE), coordinator.member.identity.public
    card = coordinator.mailbox.read(key, Card, site).message
    assert (card.state, card.examples, card.base_sha256) == ("idle", None, coordinator.model.base_sha256)


def test_a_plan_is_accepted_and_its_update_released(agent: Agent, coordinator: Coordinator) -> None:
    plan_sha256 = coordinator.show_plan(coordinator.plan())
    coordinator.point(1, plan_sha256)
    ticks(agent)
    answer, update = coordinator.answer(), coordinator.update()
    assert answer is not None
    assert update is not None
    assert (answer.decision, answer.steps, answer.plan_sha256) == ("accept", 2, plan_sha256)
    assert (update.failed, update.steps, update.plan_sha256) == (None, 2, plan_sha256)
    assert update.payload is not None
    flat = decode_flat(coordinator.opened(update.payload), coordinator.model.size)
    assert flat.abs().sum() > 0


def test_nothing_of_a_released_round_stays_in_the_sites_work_folder(
    agent: Agent, coordinator: Coordinator
) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan()))
    ticks(agent)
    assert list((coordinator.member.home / "work").iterdir()) == []


def test_a_round_that_is_released_is_not_trained_again(
    agent: Agent, coordinator: Coordinator, trainer: CountingTrainer
) -> None:
    plan_sha256 = coordinator.show_plan(coordinator.plan())
    for counter in (1, 2):
        coordinator.point(counter, plan_sha256)
        ticks(agent)
    assert trainer.jobs == 1


def test_a_rank_above_the_policy_is_declined_with_the_reason(agent: Agent, coordinator: Coordinator) -> None:
    adapter = ADAPTER.model_copy(update={"rank": 8})
    coordinator.point(1, coordinator.show_plan(coordinator.plan(adapter=adapter)))
    ticks(agent)
    answer = coordinator.answer()
    assert answer is not None
    assert (answer.decision, answer.reason) == ("decline", "rank 8 is above the policy's 4")


def test_a_declined_plan_is_not_trained(
    agent: Agent, coordinator: Coordinator, trainer: CountingTrainer
) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan(sites=("movies",))))
    ticks(agent)
    assert (trainer.jobs, coordinator.update()) == (0, None)


def test_more_steps_than_the_policy_allows_are_accepted_and_done_with_less(
    agent: Agent, coordinator: Coordinator
) -> None:
    local = LocalConfig(lr=0.02, steps=50, batch_size=2)
    coordinator.point(1, coordinator.show_plan(coordinator.plan(local=local)))
    ticks(agent)
    answer, update = coordinator.answer(), coordinator.update()
    assert answer is not None
    assert update is not None
    assert (answer.decision, answer.steps, update.steps) == ("less", 3, 3)


def test_a_deadline_that_has_passed_is_declined(agent: Agent, coordinator: Coordinator) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan(deadline=time.time() - 1)))
    ticks(agent)
    answer = coordinator.answer()
    assert answer is not None
    assert (answer.decision, answer.reason) == ("decline", "the plan's deadline has passed")


def test_a_base_that_expands_to_another_adapter_fails_with_a_public_reason(
    agent: Agent, coordinator: Coordinator
) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan(frozen_sha256="0" * 64)))
    ticks(agent)
    update = coordinator.update()
    assert update is not None
    assert (update.failed, update.payload) == ("the matrix A as expanded here differs from the plan's", None)


def test_an_update_is_sealed_for_the_rounds_own_key_and_for_nobody_else(
    agent: Agent, coordinator: Coordinator
) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan()))
    ticks(agent)
    update = coordinator.update()
    assert update is not None
    assert update.payload is not None
    with pytest.raises(RefusedError, match="not sealed for coordinator"):
        coordinator.mailbox.fetch_payload(update.payload)

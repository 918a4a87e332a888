"""A store that loses, swaps and swells what it holds: refused, on record, and the site goes on."""

import logging
import threading
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedllm.agent.agent import Agent
from fedllm.agent.head_watcher import AGAIN
from fedllm.agent.join import Membership
from fedllm.errors import EquivocationError, ExchangeError, ObjectNotFoundError, RefusedError, ReplayError
from fedllm.protocol.messages import COORDINATOR, EVERYONE, PublicKeys, Roster
from fedllm.secure.events import SecurityEvent
from tests.agent.played import ADAPTER, RUN, Coordinator, CountingTrainer, ticks

GIB = 1 << 30


def on_record(agent: Agent) -> list[tuple[str, str, str, int]]:
    return [(event.kind, event.party, event.run, event.round) for event in agent.memory.security.events()]


def only_event(agent: Agent) -> SecurityEvent:
    (event,) = agent.memory.security.events()
    return event


def file_of(coordinator: Coordinator, key: str) -> Path:
    return coordinator.mailbox.store.folder / key  # type: ignore[attr-defined]  # the store is a folder here


def test_a_huge_head_is_refused_without_being_read(agent: Agent, coordinator: Coordinator) -> None:
    coordinator.point(1, None)
    with file_of(coordinator, coordinator.mailbox.layout.head).open("r+b") as head:
        head.truncate(64 * GIB)  # a file with a hole: it takes no room
    with pytest.raises(RefusedError, match=r"head.json is larger than 262144 bytes"):
        agent.tick()
    assert on_record(agent) == [("refused", COORDINATOR, "", 0)]
    coordinator.point(2, coordinator.show_plan(coordinator.plan()))
    ticks(agent)
    assert coordinator.update() is not None


def test_a_plan_that_vanished_is_on_record_and_done_once_it_is_back(
    agent: Agent, coordinator: Coordinator
) -> None:
    key = coordinator.mailbox.layout.plan(RUN, 1)
    coordinator.point(1, coordinator.show_plan(coordinator.plan()))
    plan = coordinator.mailbox.store.get(key, limit=1 << 20)
    coordinator.mailbox.store.delete(key)
    for _ in range(3):
        with pytest.raises(ObjectNotFoundError):
            agent.tick()
    event = only_event(agent)
    assert (event.kind, event.party, event.run, event.round, event.times) == ("refused", "store", RUN, 1, 3)
    coordinator.mailbox.store.put(key, plan)
    ticks(agent)
    assert coordinator.update() is not None


def test_a_plan_that_was_swapped_is_looked_at_again(
    agent: Agent, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("fedllm.agent.head_watcher.time", SimpleNamespace(monotonic=lambda: clock[0]))
    other = coordinator.plan(seed=8)
    right = coordinator.show_plan(coordinator.plan())
    plan = coordinator.mailbox.store.get(coordinator.mailbox.layout.plan(RUN, 1), limit=1 << 20)
    coordinator.show_plan(other)
    coordinator.point(1, right)
    with pytest.raises(RefusedError, match=r"not the one that head\.json names"):
        agent.tick()
    ticks(agent)  # too soon to look again
    assert coordinator.answer() is None
    coordinator.mailbox.store.put(coordinator.mailbox.layout.plan(RUN, 1), plan)
    clock[0] += AGAIN
    ticks(agent)
    assert coordinator.update() is not None


@pytest.mark.parametrize("change", [b"", b"x" * 1189])
def test_a_model_of_other_bytes_fails_the_round_and_is_the_stores_doing(
    change: bytes, agent: Agent, coordinator: Coordinator, trainer: CountingTrainer
) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan()))
    coordinator.mailbox.store.put(coordinator.sealed_model().key, change)
    ticks(agent)
    update = coordinator.update()
    assert update is not None
    assert update.failed is not None
    assert (trainer.jobs, on_record(agent)) == (0, [("refused", "store", RUN, 1)])
    assert update.failed == only_event(agent).reason


def test_a_model_that_vanished_is_waited_for(agent: Agent, coordinator: Coordinator) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan()))
    key = coordinator.sealed_model().key
    model = coordinator.mailbox.store.get(key, limit=1 << 20)
    coordinator.mailbox.store.delete(key)
    for _ in range(2):
        with pytest.raises(ExchangeError):
            agent.tick()
    coordinator.mailbox.store.put(key, model)
    ticks(agent)
    update = coordinator.update()
    assert update is not None
    assert update.failed is None


def roster(coordinator: Coordinator, version: int, *others: PublicKeys) -> Roster:
    return Roster(
        federation=coordinator.config.name,
        sender=COORDINATOR,
        receiver=EVERYONE,
        roster_version=version,
        coordinator=coordinator.me.public,
        sites=(coordinator.member.identity.public, *others),
    )


def play_a_round(agent: Agent, coordinator: Coordinator, number: int) -> None:
    coordinator.point(number, coordinator.show_plan(coordinator.plan(number)), number=number)
    ticks(agent)


def test_a_roster_of_an_older_version_is_a_replay(agent: Agent, coordinator: Coordinator) -> None:
    key = coordinator.mailbox.layout.roster
    for version in (3, 2):
        coordinator.show(key, roster(coordinator, version))
        if version == 3:
            play_a_round(agent, coordinator, 1)
    with pytest.raises(ReplayError, match=r"roster/fed/\w+ 2 is below 3"):
        play_a_round(agent, coordinator, 2)
    assert on_record(agent) == [("replay", COORDINATOR, RUN, 2)]


def test_two_rosters_of_one_version_are_equivocation(agent: Agent, coordinator: Coordinator) -> None:
    key = coordinator.mailbox.layout.roster
    movies = coordinator.member.identity.public.model_copy(update={"name": "movies", "verify": "a" * 64})
    coordinator.show(key, roster(coordinator, 3))
    play_a_round(agent, coordinator, 1)
    coordinator.show(key, roster(coordinator, 3, movies))
    with pytest.raises(EquivocationError, match=r"roster/fed/\w+ 3 was seen before with other content"):
        play_a_round(agent, coordinator, 2)
    assert on_record(agent) == [("equivocation", COORDINATOR, RUN, 2)]


def test_a_roster_that_is_published_again_is_no_equivocation(agent: Agent, coordinator: Coordinator) -> None:
    for number in (1, 2):
        coordinator.show(coordinator.mailbox.layout.roster, roster(coordinator, 3))
        play_a_round(agent, coordinator, number)
    assert coordinator.update(2) is not None
    assert on_record(agent) == []


def test_a_roster_older_than_the_plan_says_is_a_replay(agent: Agent, coordinator: Coordinator) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan(roster_version=2)))
    with pytest.raises(ReplayError, match="the roster is version 1, version 2 is in force"):
        agent.tick()


def test_two_heads_of_one_counter_are_equivocation(agent: Agent, coordinator: Coordinator) -> None:
    coordinator.point(1, None)
    agent.tick()
    coordinator.point(1, coordinator.show_plan(coordinator.plan()))
    with pytest.raises(EquivocationError, match=r"head/fed/\w+ 1 was seen before with other content"):
        agent.tick()


def test_a_plan_of_an_epoch_below_the_runs_last_is_a_replay(agent: Agent, coordinator: Coordinator) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan(1, epoch=5)), epoch=5)
    ticks(agent)
    coordinator.point(2, coordinator.show_plan(coordinator.plan(2, epoch=4)), number=2, epoch=5)
    with pytest.raises(ReplayError, match=f"plan/{RUN} 4 is below 5"):
        agent.tick()
    assert on_record(agent) == [("replay", COORDINATOR, RUN, 2)]


def test_two_plans_of_one_round_are_equivocation(
    agent: Agent, coordinator: Coordinator, trainer: CountingTrainer
) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan()))
    ticks(agent)
    coordinator.point(2, coordinator.show_plan(coordinator.plan(rounds=4)))
    with pytest.raises(EquivocationError, match="the first one holds"):
        agent.tick()
    assert (trainer.jobs, on_record(agent)) == (1, [("equivocation", COORDINATOR, RUN, 1)])


def test_a_decline_by_the_policy_is_on_record(agent: Agent, coordinator: Coordinator) -> None:
    adapter = ADAPTER.model_copy(update={"rank": 8})
    coordinator.point(1, coordinator.show_plan(coordinator.plan(adapter=adapter)))
    ticks(agent)
    assert on_record(agent) == [("policy", COORDINATOR, RUN, 1)]
    assert only_event(agent).reason == "rank 8 is above the policy's 4"


def test_a_refusal_is_told_once_and_counted(
    agent: Agent, coordinator: Coordinator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedllm.agent.head_watcher.AGAIN", 0.0)
    coordinator.show_plan(coordinator.plan())
    coordinator.point(1, "0" * 64)
    stop = threading.Event()
    with caplog.at_level(logging.ERROR):
        thread = threading.Thread(target=agent.run, args=(stop,))
        thread.start()
        while not (events := agent.memory.security.events()) or events[0].times < 5:
            time.sleep(0.01)
        stop.set()
        thread.join()
    assert [record.getMessage() for record in caplog.records] == [
        "refused: the plan of round 1 is not the one that head.json names"
    ]


def test_what_is_refused_does_not_keep_a_site_from_sending_what_it_owes(
    member: Membership, coordinator: Coordinator, trainer: CountingTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator.point(1, coordinator.show_plan(coordinator.plan()))
    with closing(Agent(member, trainer)) as before, monkeypatch.context() as away:
        away.setattr(before.outbox, "release_committed", lambda: None)
        ticks(before)
    assert coordinator.update() is None
    with closing(Agent(member, trainer)) as after:
        coordinator.mailbox.store.put(coordinator.mailbox.layout.head, b"nonsense")
        with pytest.raises(RefusedError):
            after.tick()
    assert coordinator.update() is not None

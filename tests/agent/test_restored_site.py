"""A site whose files come from a backup: it never spends twice what it paid for once."""

import shutil
import time
from contextlib import closing
from pathlib import Path

import pytest

from fedllm.agent.agent import Agent
from fedllm.agent.join import Membership
from fedllm.backup.counters import advance_memory
from fedllm.backup.databases import copy_sqlite
from fedllm.backup.ledgers import Retired, charged_rounds, retire_ledgers
from fedllm.config import load_site
from fedllm.privacy.site_ledger import site_ledger
from fedllm.protocol.messages import Update
from fedllm.secure.identity import load_identity
from tests.agent.played import RUN, SITE, Coordinator, CountingTrainer, EndlessTrainer, ticks
from tests.agent.test_private_plans import asked, private

FILES = ("memory.db", "ledger.db")


@pytest.fixture
def saved(agent: Agent, member: Membership, coordinator: Coordinator, tmp_path: Path) -> Path:
    """What a backup after round 1 holds; round 2 was trained and sent since, then the disk died."""
    asked(agent, coordinator, private(coordinator))
    backup = tmp_path / "backup"
    backup.mkdir()
    for name in FILES:
        copy_sqlite(member.home / name, backup / name)
    assert asked(agent, coordinator, private(coordinator, 2), 2).decision == "accept"
    agent.close()
    return backup


def put_back(home: Path, backup: Path) -> None:
    for name in FILES:
        for file in home.glob(f"{name}*"):
            file.unlink()
        shutil.copyfile(backup / name, home / name)


def heads(update: Update) -> dict[str, tuple[dict[str, object], ...]]:
    newest = update.ledger[-1]
    return {SITE: ({"dataset": newest.dataset, "seq": newest.seq, "sha256": newest.sha256},)}


def lose_update(coordinator: Coordinator, number: int) -> None:
    """The store is an older one as well: a site that was restored must not need its word."""
    layout = coordinator.mailbox.layout
    for key in (layout.update(SITE, RUN, number), layout.payload(SITE, RUN, number)):
        coordinator.mailbox.store.delete(key)


def charged(home: Path) -> int:
    """Steps on the site's ledger."""
    with closing(site_ledger(home, load_site(home / "site.yaml"), load_identity(home / "keys"))) as ledger:
        return sum(r.charged for r in ledger.state(SITE).reservations.values())


def test_a_restored_ledger_trains_no_round_twice_even_for_a_coordinator_that_was_restored_as_well(
    saved: Path, member: Membership, trainer: CountingTrainer, coordinator: Coordinator
) -> None:
    put_back(member.home, saved)
    assert retire_ledgers(member.home) == [Retired(SITE, RUN, 4)]
    assert retire_ledgers(member.home) == []  # a second restore finds nothing to do
    jobs = trainer.jobs
    first = coordinator.update()
    assert first is not None
    lose_update(coordinator, 2)
    with closing(Agent(member, trainer)) as again:
        asked(again, coordinator, private(coordinator, 2, ledgers=heads(first)), 3)
    update = coordinator.update(2)
    assert update is not None
    assert (update.payload, trainer.jobs) == (None, jobs)
    assert update.failed is not None
    assert charged(member.home) == 6  # all that was promised: it covers what was sent before the disk died


def test_a_site_that_lost_what_its_coordinator_saw_stays_out_until_the_newest_ledger_is_back(
    saved: Path, member: Membership, trainer: CountingTrainer, coordinator: Coordinator, tmp_path: Path
) -> None:
    newest = tmp_path / "newest.db"
    copy_sqlite(member.home / "ledger.db", newest)
    second = coordinator.update(2)
    assert second is not None
    put_back(member.home, saved)
    retire_ledgers(member.home)
    jobs = trainer.jobs
    with closing(Agent(member, trainer)) as again:
        answer = asked(again, coordinator, private(coordinator, 3, ledgers=heads(second)), 3)
    assert answer.decision == "decline"
    assert "ledger does not let it take part" in answer.reason
    assert trainer.jobs == jobs
    put_back(member.home, saved)  # its memory, in which round 3 is not answered yet
    shutil.copyfile(newest, member.home / "ledger.db")
    with closing(Agent(member, trainer)) as caught_up:
        plan = private(coordinator, 3, ledgers=heads(second))
        assert asked(caught_up, coordinator, plan, 4).decision == "accept"
    assert trainer.jobs == jobs + 1
    assert charged(member.home) == 6


def test_a_restored_sites_card_counts_above_what_its_coordinator_saw(
    saved: Path, member: Membership, trainer: CountingTrainer
) -> None:
    with closing(Agent(member, trainer)) as agent:
        agent.tick()
        before = agent.memory.value("card")
    put_back(member.home, saved)
    assert advance_memory(member.home, taken=time.time(), paid=charged_rounds(member.home)) == []
    with closing(Agent(member, trainer)) as again:
        again.tick()
        assert again.memory.value("card") > before


@pytest.fixture
def charged_only(
    member: Membership, trainer: CountingTrainer, coordinator: Coordinator, tmp_path: Path
) -> Path:
    """What a backup inside round 1 holds, its charge and no update; the update was sent since."""
    backup = tmp_path / "backup"
    backup.mkdir()
    with closing(Agent(member, EndlessTrainer())) as agent:
        asked(agent, coordinator, private(coordinator))
        for name in FILES:
            copy_sqlite(member.home / name, backup / name)
    with closing(Agent(member, trainer)) as agent:
        ticks(agent, 3)
    assert trainer.jobs == 1
    return backup


def sent(coordinator: Coordinator) -> bytes:
    return coordinator.mailbox.store.get(coordinator.mailbox.layout.update(SITE, RUN, 1), limit=1 << 20)


def test_a_backup_between_charge_and_update_sends_no_second_update_for_the_charge(
    charged_only: Path, member: Membership, trainer: CountingTrainer, coordinator: Coordinator
) -> None:
    assert sent(coordinator)
    lose_update(coordinator, 1)
    put_back(member.home, charged_only)
    retire_ledgers(member.home)
    assert advance_memory(member.home, time.time(), charged_rounds(member.home)) == [(RUN, 1)]
    with closing(Agent(member, trainer)) as again:
        ticks(again, 3)
        assert again.memory.tally().failed == 1
        assert again.memory.tally().under_way == 0
    assert trainer.jobs == 1
    assert coordinator.update() is None


def test_a_folder_from_before_the_round_sends_no_second_update_while_the_store_has_the_first(
    saved: Path, member: Membership, trainer: CountingTrainer, coordinator: Coordinator
) -> None:
    layout = coordinator.mailbox.layout
    first = coordinator.mailbox.store.get(layout.update(SITE, RUN, 2), limit=1 << 20)
    put_back(member.home, saved)  # memory and ledger alike: neither knows of round 2, which is still open
    with closing(Agent(member, trainer)) as again:
        ticks(again, 3)
    answer = coordinator.answer(2)
    assert answer is not None
    assert (answer.decision, "this memory is older" in answer.reason) == ("decline", True)
    assert coordinator.mailbox.store.get(layout.update(SITE, RUN, 2), limit=1 << 20) == first
    assert trainer.jobs == 2


def test_a_memory_that_was_put_back_by_hand_sends_no_second_update_while_the_store_has_the_first(
    charged_only: Path, member: Membership, trainer: CountingTrainer, coordinator: Coordinator
) -> None:
    first = sent(coordinator)
    put_back(member.home, charged_only)
    with closing(Agent(member, trainer)) as again:
        ticks(again, 3)
        assert again.memory.tally().failed == 1
    assert (trainer.jobs, sent(coordinator)) == (1, first)


def test_without_dp_too_an_older_memory_signs_no_second_update_of_a_round(
    member: Membership, trainer: CountingTrainer, coordinator: Coordinator, tmp_path: Path
) -> None:
    with closing(Agent(member, EndlessTrainer())) as agent:
        asked(agent, coordinator, coordinator.plan())
        copy_sqlite(member.home / "memory.db", tmp_path / "memory.db")
    with closing(Agent(member, trainer)) as agent:
        ticks(agent, 3)
    first = sent(coordinator)
    for file in member.home.glob("memory.db*"):
        file.unlink()
    shutil.copyfile(tmp_path / "memory.db", member.home / "memory.db")
    with closing(Agent(member, trainer)) as again:
        ticks(again, 3)
        assert again.memory.tally().failed == 1
    assert (trainer.jobs, sent(coordinator)) == (1, first)

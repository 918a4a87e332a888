"""What must not go on where a backup left off: numbers that only ever rise.

The world went on after the backup was taken. Sites have seen higher head counters, epochs and roster
versions, and refuse a second message under one number. An archive may be restored more than once, too:
each restore goes on higher than whatever an earlier one can have used, by the time that has passed.
"""

import json
import time
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from sqlalchemy import select, update

from fedllm.agent.folder import WorkFolder
from fedllm.agent.memory import Memory
from fedllm.coordinator.journal import Journal
from fedllm.coordinator.tables import FederationRow, LeaseRow, ReleaseRow, RunRow

HEADS = 1_000_000  # plans and states of head.json; far more than were shown between backup and restore
EPOCHS = 100_000  # changes of leader
ROSTERS = 1_000  # sites that joined, left or changed keys
CARDS = 1_000_000  # heartbeats of a site
# More than can be used in a second. Epochs and rosters rise by one.
HEADS_A_SECOND = CARDS_A_SECOND = 10


def since(taken: float) -> int:
    """Whole seconds since a backup was taken; 0 where this machine's clock is behind."""
    return max(0, int(time.time() - taken))


def skip_journal(journal: Journal, taken: float, old_home: str, new_home: Path) -> None:
    """Raise a federation's numbers above whatever was used since the backup, and free its lease.

    Args:
        journal: the federation's, as it was restored.
        taken: when the backup was taken, s since 1970.
        old_home: fedllm's home then.
        new_home: fedllm's home now.
    """
    when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(taken))
    passed = since(taken)
    mine = RunRow.federation == journal.federation
    with journal.write() as session:
        row = session.get(FederationRow, journal.federation, with_for_update=True)
        if row is not None:
            roster = json.loads(row.roster)
            roster["roster_version"] += ROSTERS + passed
            row.roster = json.dumps(roster)
            row.head_counter += HEADS + HEADS_A_SECOND * passed
        lease = session.get(LeaseRow, journal.federation, with_for_update=True)
        if lease is None:
            lease = LeaseRow(federation=journal.federation, epoch=0, expires=0.0)
            session.add(lease)
        lease.epoch, lease.holder, lease.expires = lease.epoch + EPOCHS + passed, None, 0.0
        reason = f"restored from a backup of {when}"
        session.execute(
            update(RunRow).where(mine, RunRow.status == "running").values(status="crashed", reason=reason)
        )
        runs = select(RunRow.run).where(mine)
        waiting = select(ReleaseRow).where(ReleaseRow.version.is_(None), ReleaseRow.run.in_(runs))
        for release in session.scalars(waiting):
            release.body = _moved(release.body, old_home, new_home)


def _moved(body: str, old_home: str, new_home: Path) -> str:
    """A release that waits, with its adapter's folder where it is now."""
    told = json.loads(body)
    folder = Path(told["adapter_folder"])
    if folder.is_relative_to(old_home):
        told["adapter_folder"] = str(new_home / folder.relative_to(old_home))
    return json.dumps(told)


def skip_memory(home: Path, taken: float, paid: Collection[tuple[str, int]] | None) -> list[tuple[str, int]]:
    """Let a restored site go on above what its coordinator may have seen, and owe nothing that it has sent.

    Args:
        home: the site's.
        taken: when the backup was taken, s since 1970.
        paid: runs and rounds that its privacy ledger has charged; None where that ledger is not known.

    Returns:
        The runs and rounds under way that it gives up. The memory is read before the ledger: the update that
        a charge paid for may have left since, and the noise of a second one would be another.
    """
    given_up = []
    folder = WorkFolder(home / "work")
    with closing(Memory(home / "memory.db")) as memory:
        memory.rise("card", memory.value("card") + CARDS + CARDS_A_SECOND * since(taken))
        for work in memory.committed():
            # The memory is read before the files. The store had the update by then: only then is its file
            # deleted. To train the round again was never possible from here on.
            if work.payload is not None and not folder.sealed(work.run, work.round).exists():
                memory.release(work.run, work.round)
        for work in memory.reserved():
            if paid is None or (work.run, work.round) in paid:
                memory.give_up(work.run, work.round)
                given_up.append((work.run, work.round))
    return given_up

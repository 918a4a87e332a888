"""What must not go on where a backup left off: numbers that only ever rise.

The world went on after the backup was taken. Sites have seen higher head counters, epochs and roster
versions, and refuse a second message under one number. Archives may be restored more than once, too, and
in any order. So a restore takes its numbers from the clock, which rises faster than they do: what a later
restore takes is above all that an earlier one can have used.
"""

import json
import time
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from sqlalchemy import select, update

from fedllm.agent.folder import WorkFolder
from fedllm.agent.memory import Memory
from fedllm.journal.journal import Journal
from fedllm.journal.tables import FederationRow, LeaseRow, ReleaseRow, RunRow

ORIGIN = 1_767_225_600  # s since 1970: 2026 begins
# A second; more than can be used. Plans and states of head.json, heartbeats of a site.
HEADS = CARDS = 10
# Changes of leader; sites that join, leave or change keys.
EPOCHS = ROSTERS = 1


def above(own: int, rate: int, taken: float) -> int:
    """A number above one's own, and above what was used since the backup or after any restore.

    Args:
        own: the number that was restored.
        rate: how many are used in a second at the very most.
        taken: when the backup was taken, s since 1970; a machine whose clock is behind that goes by it.
    """
    return max(own + 1, rate * int(max(time.time(), taken) - ORIGIN))


def skip_journal(journal: Journal, taken: float, old_home: str, new_home: Path) -> None:
    """Raise a federation's numbers above whatever was used since the backup, and free its lease.

    Args:
        journal: the federation's, as it was restored.
        taken: when the backup was taken, s since 1970.
        old_home: fedllm's home then.
        new_home: fedllm's home now.
    """
    when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(taken))
    mine = RunRow.federation == journal.federation
    with journal.write() as session:
        row = session.get(FederationRow, journal.federation, with_for_update=True)
        if row is not None:
            roster = json.loads(row.roster)
            roster["roster_version"] = above(roster["roster_version"], ROSTERS, taken)
            row.roster = json.dumps(roster)
            row.head_counter = above(row.head_counter, HEADS, taken)
        lease = session.get(LeaseRow, journal.federation, with_for_update=True)
        if lease is None:
            lease = LeaseRow(federation=journal.federation, epoch=0, expires=0.0)
            session.add(lease)
        lease.epoch, lease.holder, lease.expires = above(lease.epoch, EPOCHS, taken), None, 0.0
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
        memory.rise("card", above(memory.value("card"), CARDS, taken))
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

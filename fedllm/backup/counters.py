"""Advance the counters of a restored home beyond every value that was used after the backup.

Sites have since seen higher head counters, epochs and roster versions, and refuse a second message with one
number. Archives may also be restored more than once and in any order. So a restore derives its numbers from
the clock, which rises faster than they do: a later restore is above all that an earlier one can have used.
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

ORIGIN = 1_767_225_600  # s since 1970: start of 2026
# Values per second, more than can be used. For plans and states of head.json, and a site's heartbeats.
HEADS = CARDS = 10
# For changes of leader, and for sites that join, leave or change keys.
EPOCHS = ROSTERS = 1


def above(own: int, rate: int, taken: float) -> int:
    """Return a number above `own` and above all that were used since the backup or after any restore.

    Args:
        own: the restored number.
        rate: upper bound of the numbers used per second.
        taken: time of the backup, s since 1970; replaces this machine's clock if that is earlier.
    """
    return max(own + 1, rate * int(max(time.time(), taken) - ORIGIN))


def advance_journal(journal: Journal, taken: float, old_home: str, new_home: Path) -> None:
    """Advance a federation's counters beyond all that were used since the backup, and free its lease.

    Args:
        journal: the federation's restored journal.
        taken: time of the backup, s since 1970.
        old_home: fedllm's home at the backup.
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
    """Return a waiting release whose adapter folder is below the new home."""
    release = json.loads(body)
    folder = Path(release["adapter_folder"])
    if folder.is_relative_to(old_home):
        release["adapter_folder"] = str(new_home / folder.relative_to(old_home))
    return json.dumps(release)


def advance_memory(
    home: Path, taken: float, paid: Collection[tuple[str, int]] | None
) -> list[tuple[str, int]]:
    """Advance a restored site's card counter, mark sent updates as released, and give up charged rounds.

    A backup reads the memory before the ledger. So the update that a charge paid for may have been sent,
    and a second update would have different noise.

    Args:
        home: the site's home.
        taken: time of the backup, s since 1970.
        paid: runs and rounds that the site's privacy ledger has charged; None if that ledger is unknown.

    Returns:
        The (run, round) pairs that the site gives up.
    """
    given_up = []
    folder = WorkFolder(home / "work")
    with closing(Memory(home / "memory.db")) as memory:
        memory.rise("card", above(memory.value("card"), CARDS, taken))
        for work in memory.committed():
            # A backup reads the memory before the files, and a site deletes an update's file only after the
            # store has it. So this update was sent; a committed round is never trained again.
            if work.payload is not None and not folder.sealed(work.run, work.round).exists():
                memory.release(work.run, work.round)
        for work in memory.reserved():
            if paid is None or (work.run, work.round) in paid:
                memory.give_up(work.run, work.round)
                given_up.append((work.run, work.round))
    return given_up

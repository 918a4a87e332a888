"""What must not go on where a backup left off: numbers that only ever rise, and privacy ledgers.

The world went on after the backup was taken. Sites have seen higher head counters, epochs and roster
versions, and refuse a second message under one number; a ledger may lack charges for noise that has left.
"""

import json
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select, update

from fedllm.agent.memory import Memory
from fedllm.config import load_site
from fedllm.coordinator.journal import Journal
from fedllm.coordinator.tables import FederationRow, LeaseRow, ReleaseRow, RunRow
from fedllm.privacy.site_ledger import ledger_path, site_ledger
from fedllm.secure.identity import load_identity

HEADS = 1_000_000  # plans and states of head.json; far more than were shown since any backup
EPOCHS = 100_000  # changes of leader
ROSTERS = 1_000  # sites that joined, left or changed keys
CARDS = 1_000_000  # heartbeats of a site
NO_ROUND = 2**31 - 1  # under which steps are charged that may have been taken in any round


@dataclass(frozen=True)
class Retired:
    """Steps of a training that a restored ledger counts as spent."""

    dataset: str
    run: str
    steps: int


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
            roster["roster_version"] += ROSTERS
            row.roster, row.head_counter = json.dumps(roster), row.head_counter + HEADS
        lease = session.get(LeaseRow, journal.federation, with_for_update=True)
        if lease is None:
            lease = LeaseRow(federation=journal.federation, epoch=0, expires=0.0)
            session.add(lease)
        lease.epoch, lease.holder, lease.expires = lease.epoch + EPOCHS, None, 0.0
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


def skip_memory(home: Path) -> None:
    """Let a restored site's card go on above what its coordinator may have seen."""
    with closing(Memory(home / "memory.db")) as memory:
        memory.rise("card", memory.value("card") + CARDS)


def retire_reservations(home: Path) -> list[Retired]:
    """Count every training that a site's restored ledger has open as spent to its last step.

    Steps may have been charged, and their noise sent, after the backup was taken: the file cannot tell. Once
    all steps that were promised are charged, no step can be taken twice for one charge.

    Raises:
        LedgerError: the ledger is damaged.
        IdentityError: the site's keys are not there.
    """
    site = load_site(home / "site.yaml")
    path = ledger_path(home, site)
    if not path.is_relative_to(home) or not path.exists():
        return []
    retired = []
    with closing(site_ledger(home, site, load_identity(home / "keys"))) as ledger:
        for dataset in ledger.datasets():
            for open_one in list(ledger.state(dataset).reservations.values()):
                context, left = open_one.entry.context, open_one.most - open_one.charged
                if open_one.settled or not left or context is None:
                    continue
                ledger.charge(
                    dataset,
                    federation=context.federation,
                    run=context.run,
                    round=NO_ROUND,
                    first=0,
                    steps=left,
                )
                retired.append(Retired(dataset, context.run, left))
    return retired

"""Read a journal for a backup: each federation's progress, and the objects that open rounds need."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError
from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

from fedllm.backup.manifest import FederationMark
from fedllm.config import FederationConfig
from fedllm.journal.location import update_file
from fedllm.journal.tables import FederationRow, LeaseRow, OutcomeRow, RunRow

_TRAIN = "remote-local-train "
_OVER = {"aggregate", "failed"}  # after one of these steps nobody needs the round's updates


@dataclass(frozen=True)
class Need:
    """A sealed update that an open round needs; the coordinator's decrypted copy can replace it."""

    federation: str
    run: str
    key: str
    kept: str  # file name of the decrypted copy


@dataclass(frozen=True)
class JournalContents:
    """The data that a backup reads from one state of a journal."""

    marks: dict[str, FederationMark] = field(default_factory=dict)
    configs: dict[str, FederationConfig] = field(default_factory=dict)  # of each federation's newest run
    needs: tuple[Need, ...] = ()
    known: frozenset[str] = frozenset()  # federations with a roster, a lease or a run
    sites: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # names in each federation's roster
    unread: tuple[str, ...] = ()  # federations whose newest run's configuration this fedllm cannot read

    def merged(self, other: "JournalContents") -> "JournalContents":
        """Return the combined contents of two journals."""
        return JournalContents(
            self.marks | other.marks,
            self.configs | other.configs,
            self.needs + other.needs,
            self.known | other.known,
            {**self.sites, **other.sites},
            self.unread + other.unread,
        )


def read_journal(connection: Connection) -> JournalContents:
    """Read the contents of a journal that a backup needs."""
    with Session(connection) as session:
        runs = list(session.scalars(select(RunRow).order_by(RunRow.started)))
        unfinished: dict[str, list[str]] = {}
        for row in runs:
            if row.status != "completed":
                unfinished.setdefault(row.federation, []).append(row.run)
        marks, sites = {}, {}
        for federation in session.scalars(select(FederationRow).order_by(FederationRow.federation)):
            name = federation.federation
            lease = session.get(LeaseRow, name)
            roster = json.loads(federation.roster)
            sites[name] = tuple(site["name"] for site in roster["sites"])
            marks[name] = FederationMark(
                roster_version=roster["roster_version"],
                head_counter=federation.head_counter,
                epoch=lease.epoch if lease else 0,
                unfinished=tuple(unfinished.get(name, ())),
            )
        needs = tuple(need for row in runs for need in _open_updates(session, row))
        leases = session.scalars(select(LeaseRow.federation))
        known = frozenset([*marks, *leases, *(row.federation for row in runs)])
    configs, unread = _configs({row.federation: row.config for row in runs})
    return JournalContents(marks, configs, needs, known, sites, unread)


def _configs(newest: Mapping[str, str]) -> tuple[dict[str, FederationConfig], tuple[str, ...]]:
    """Return the readable configurations, and the federations with an unreadable one of another fedllm."""
    configs, unread = {}, []
    for federation, body in newest.items():
        try:
            configs[federation] = FederationConfig.model_validate_json(body)
        except ValidationError:
            unread.append(federation)
    return configs, tuple(unread)


def _open_updates(session: Session, run: RunRow) -> Iterator[Need]:
    """Yield the updates that have arrived and are not aggregated yet."""
    rows = list(session.scalars(select(OutcomeRow).where(OutcomeRow.run == run.run)))
    over = {row.round for row in rows if row.step in _OVER}
    for row in rows:
        if row.step.startswith(_TRAIN) and row.round not in over:
            payload = json.loads(row.body).get("payload")
            if payload is not None:
                yield Need(run.federation, run.run, payload["key"], update_file(row.round, payload["sha256"]))

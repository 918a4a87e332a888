"""What a copy of a journal tells: how far each federation was, and which objects it cannot do without."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError
from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

from fedllm.backup.manifest import FederationMark
from fedllm.config import FederationConfig
from fedllm.journal.journal import update_file
from fedllm.journal.tables import FederationRow, LeaseRow, OutcomeRow, RunRow

_TRAIN = "remote-local-train "
_OVER = {"aggregate", "failed"}  # from then on nobody needs the round's updates


@dataclass(frozen=True)
class Need:
    """A sealed update of an open round; the coordinator's opened copy of it serves as well."""

    federation: str
    run: str
    key: str
    kept: str  # the name of the opened copy


@dataclass(frozen=True)
class Journalled:
    """What was read from one state of a journal."""

    marks: dict[str, FederationMark] = field(default_factory=dict)
    configs: dict[str, FederationConfig] = field(default_factory=dict)  # of each federation's newest run
    needs: tuple[Need, ...] = ()
    known: frozenset[str] = frozenset()  # federations with a roster, a lease or a run
    sites: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of each federation's roster
    unread: tuple[str, ...] = ()  # federations whose newest run's configuration this fedllm cannot read

    def and_of(self, other: "Journalled") -> "Journalled":
        """What two journals tell."""
        return Journalled(
            self.marks | other.marks,
            self.configs | other.configs,
            self.needs + other.needs,
            self.known | other.known,
            {**self.sites, **other.sites},
            self.unread + other.unread,
        )


def read_journal(connection: Connection) -> Journalled:
    """Read what a backup has to know of a journal."""
    with Session(connection) as session:
        runs = list(session.scalars(select(RunRow).order_by(RunRow.started)))
        unfinished: dict[str, list[str]] = {}
        for row in runs:
            if row.status != "completed":
                unfinished.setdefault(row.federation, []).append(row.run)
        marks, sites = {}, {}
        for known in session.scalars(select(FederationRow).order_by(FederationRow.federation)):
            lease = session.get(LeaseRow, known.federation)
            roster = json.loads(known.roster)
            sites[known.federation] = tuple(site["name"] for site in roster["sites"])
            marks[known.federation] = FederationMark(
                roster_version=roster["roster_version"],
                head_counter=known.head_counter,
                epoch=lease.epoch if lease else 0,
                unfinished=tuple(unfinished.get(known.federation, ())),
            )
        needs = tuple(need for row in runs for need in _open_updates(session, row))
        leases = session.scalars(select(LeaseRow.federation))
        known_here = frozenset([*marks, *leases, *(row.federation for row in runs)])
    configs, unread = _configs({row.federation: row.config for row in runs})
    return Journalled(marks, configs, needs, known_here, sites, unread)


def _configs(newest: Mapping[str, str]) -> tuple[dict[str, FederationConfig], tuple[str, ...]]:
    """The configurations that can be read, and whose cannot: an older fedllm may have written them."""
    configs, unread = {}, []
    for federation, body in newest.items():
        try:
            configs[federation] = FederationConfig.model_validate_json(body)
        except ValidationError:
            unread.append(federation)
    return configs, tuple(unread)


def _open_updates(session: Session, run: RunRow) -> Iterator[Need]:
    """Updates that came and are not aggregated yet."""
    rows = list(session.scalars(select(OutcomeRow).where(OutcomeRow.run == run.run)))
    over = {row.round for row in rows if row.step in _OVER}
    for row in rows:
        if row.step.startswith(_TRAIN) and row.round not in over:
            payload = json.loads(row.body).get("payload")
            if payload is not None:
                yield Need(run.federation, run.run, payload["key"], update_file(row.round, payload["sha256"]))

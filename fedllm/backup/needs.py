"""What a copy of a journal tells: how far each federation was, and which objects it cannot do without."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

from fedllm.backup.manifest import FederationMark
from fedllm.config import FederationConfig
from fedllm.coordinator.outcomes import SiteOutcome
from fedllm.coordinator.tables import FederationRow, LeaseRow, OutcomeRow, RunRow

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

    marks: dict[str, FederationMark]
    configs: dict[str, FederationConfig]  # of each federation's newest run
    needs: tuple[Need, ...]


def read_journal(connection: Connection) -> Journalled:
    """Read what a backup has to know of a journal."""
    with Session(connection) as session:
        runs = list(session.scalars(select(RunRow).order_by(RunRow.started)))
        unfinished: dict[str, list[str]] = {}
        for row in runs:
            if row.status != "completed":
                unfinished.setdefault(row.federation, []).append(row.run)
        marks = {}
        for known in session.scalars(select(FederationRow).order_by(FederationRow.federation)):
            lease = session.get(LeaseRow, known.federation)
            marks[known.federation] = FederationMark(
                roster_version=json.loads(known.roster)["roster_version"],
                head_counter=known.head_counter,
                epoch=lease.epoch if lease else 0,
                unfinished=tuple(unfinished.get(known.federation, ())),
            )
        configs = {row.federation: FederationConfig.model_validate_json(row.config) for row in runs}
        needs = tuple(need for row in runs for need in _open_updates(session, row))
    return Journalled(marks, configs, needs)


def _open_updates(session: Session, run: RunRow) -> Iterator[Need]:
    """Updates that came and are not aggregated yet."""
    rows = list(session.scalars(select(OutcomeRow).where(OutcomeRow.run == run.run)))
    over = {row.round for row in rows if row.step in _OVER}
    for row in rows:
        if row.step.startswith(_TRAIN) and row.round not in over:
            payload = SiteOutcome.model_validate_json(row.body).payload
            if payload is not None:
                yield Need(run.federation, run.run, payload.key, f"{payload.sha256}.update")

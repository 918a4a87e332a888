"""Releases that MLflow does not have yet, in the journal: MLflow being away loses none and doubles none."""

import json
from dataclasses import dataclass

from sqlalchemy import Select, select

from fedllm.journal.journal import Journal
from fedllm.journal.tables import ReleaseRow, RunRow


def queue_release(journal: Journal, run: str, number: int, body: str) -> None:
    """Keep a release (JSON) until MLflow has it."""
    with journal.write() as session:
        if session.get(ReleaseRow, (run, number)) is None:
            session.add(ReleaseRow(run=run, round=number, body=body, version=None))


def waiting_releases(journal: Journal) -> list[tuple[str, int, str]]:
    """Releases that MLflow does not have yet, oldest first: (run, round, body)."""
    with journal.read() as session:
        rows = session.scalars(_oldest_first(journal).where(ReleaseRow.version.is_(None)))
        return [(row.run, row.round, row.body) for row in rows]


@dataclass(frozen=True)
class PublishedRelease:
    """A release that MLflow has."""

    run: str
    round: int
    body: str  # JSON, as it was queued
    version: str  # its number in the registry


def published_releases(journal: Journal) -> list[PublishedRelease]:
    """Releases that MLflow has, oldest first."""
    with journal.read() as session:
        rows = session.scalars(_oldest_first(journal).where(ReleaseRow.version.is_not(None)))
        return [
            PublishedRelease(row.run, row.round, row.body, str(json.loads(row.version)["version"]))
            for row in rows
            if row.version is not None
        ]


def mark_released(journal: Journal, run: str, number: int, version: str) -> None:
    """MLflow has the version (JSON of what it answered)."""
    with journal.write() as session:
        session.get_one(ReleaseRow, (run, number)).version = version


def published(journal: Journal, run: str, number: int) -> str | None:
    """What MLflow answered, or None while the release waits."""
    with journal.read() as session:
        row = session.get(ReleaseRow, (run, number))
        return row.version if row else None


def _oldest_first(journal: Journal) -> Select[tuple[ReleaseRow]]:
    """The federation's releases."""
    return (
        select(ReleaseRow)
        .join(RunRow, RunRow.run == ReleaseRow.run)
        .where(RunRow.federation == journal.federation)
        .order_by(RunRow.started, ReleaseRow.round)
    )

"""The journal's queue of releases: while MLflow is unreachable none is lost, and none is published twice."""

import json
from dataclasses import dataclass

from sqlalchemy import Select, select

from fedllm.journal.journal import Journal
from fedllm.journal.tables import ReleaseRow, RunRow


def queue_release(journal: Journal, run: str, number: int, body: str) -> None:
    """Store a release (JSON) until MLflow has it."""
    with journal.write() as session:
        if session.get(ReleaseRow, (run, number)) is None:
            session.add(ReleaseRow(run=run, round=number, body=body, version=None))


def waiting_releases(journal: Journal) -> list[tuple[str, int, str]]:
    """Return the releases that MLflow does not have yet, oldest first: (run, round, body)."""
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
    """Return the releases that MLflow has, oldest first."""
    with journal.read() as session:
        rows = session.scalars(_oldest_first(journal).where(ReleaseRow.version.is_not(None)))
        return [
            PublishedRelease(row.run, row.round, row.body, str(json.loads(row.version)["version"]))
            for row in rows
            if row.version is not None
        ]


def mark_released(journal: Journal, run: str, number: int, version: str) -> None:
    """Record that MLflow has the version (MLflow's reply as JSON)."""
    with journal.write() as session:
        session.get_one(ReleaseRow, (run, number)).version = version


def published(journal: Journal, run: str, number: int) -> str | None:
    """Return MLflow's reply, or None while the release waits."""
    with journal.read() as session:
        row = session.get(ReleaseRow, (run, number))
        return row.version if row else None


def _oldest_first(journal: Journal) -> Select[tuple[ReleaseRow]]:
    """Select the federation's releases, oldest first."""
    return (
        select(ReleaseRow)
        .join(RunRow, RunRow.run == ReleaseRow.run)
        .where(RunRow.federation == journal.federation)
        .order_by(RunRow.started, ReleaseRow.round)
    )

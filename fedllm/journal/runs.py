"""The trainings of a federation in its journal: their ids, how they ended, and their Prefect flow runs."""

import secrets
import time

from sqlalchemy import select

from fedllm.journal.journal import Journal
from fedllm.journal.tables import FlowRunRow, RunRow


def new_run_id() -> str:
    """Return a new run's id: the time, UTC, and 16 random bits."""
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(2)


def begin_run(journal: Journal, run: str, config: str) -> None:
    """Record that a training runs; a resumed one keeps its configuration."""
    with journal.write() as session:
        row = session.get(RunRow, run)
        if row is None:
            session.add(
                RunRow(
                    run=run,
                    federation=journal.federation,
                    config=config,
                    status="running",
                    reason="",
                    started=time.time(),
                )
            )
        else:
            row.status, row.reason, row.finished = "running", "", None


def end_run(journal: Journal, run: str, status: str, reason: str) -> None:
    """Record how a training ended."""
    with journal.write() as session:
        row = session.get_one(RunRow, run)
        row.status, row.reason, row.finished = status, reason, time.time()


def play_by(journal: Journal, flow_run: str, run: str) -> None:
    """Record which Prefect flow run plays a training."""
    with journal.write() as session:
        session.merge(FlowRunRow(flow_run=flow_run, run=run))


def played_by(journal: Journal, flow_run: str) -> str | None:
    """Return the training that a Prefect flow run played before it was interrupted, or None."""
    with journal.read() as session:
        row = session.get(FlowRunRow, flow_run)
        return row.run if row else None


def find_run(journal: Journal, run: str) -> RunRow | None:
    """Return a training, or None if the journal does not have it."""
    with journal.read() as session:
        return session.get(RunRow, run)


def all_runs(journal: Journal) -> list[RunRow]:
    """Return all trainings of the federation, oldest first."""
    with journal.read() as session:
        query = select(RunRow).where(RunRow.federation == journal.federation).order_by(RunRow.started)
        return list(session.scalars(query))

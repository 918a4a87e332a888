"""The coordinator's journal: the leader, the outcomes of steps, and what is still to be published.

It is SQLite beside the coordinator's keys, or the database at `FEDLLM_JOURNAL_URL` (Postgres if two machines
may take over from each other). A leader writes in the transaction that checks its epoch, so a deposed leader
that still runs cannot overwrite its successor's entries.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import stamina
from pydantic import BaseModel
from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from fedllm.disk import room
from fedllm.errors import CancelledError, ConfigError, FedllmError, JournalError, LeaseError, RoundError
from fedllm.journal.database import alone, database_clock, open_database
from fedllm.journal.location import coordinator_folder, journal_url
from fedllm.journal.tables import (
    FederationRow,
    LeaseRow,
    OutboxRow,
    OutcomeRow,
    RunRow,
    Table,
)
from fedllm.secure.events import SecurityLog

Outcome = TypeVar("Outcome", bound=BaseModel)


# For idempotent writes: the reply to their commit may be lost, so they are retried.
_again = stamina.retry(on=JournalError, attempts=4, timeout=60.0)


class Journal:
    """The journal of one federation."""

    def __init__(self, federation: str, url: str | None = None) -> None:
        self.federation = federation
        url = url or journal_url(federation)
        folder = coordinator_folder(federation)  # SQLite creates its file in it, but not the folder
        self._engine: Engine = open_database(url)
        self._writes = self._engine.execution_options(writes=True)
        try:
            with alone(self._engine):
                Table.metadata.create_all(self._writes)
                self.security = SecurityLog(self._writes)
        except OperationalError as error:  # SQLite's; those of Postgres are JournalError by now
            raise JournalError(
                f"the journal of {federation} in {folder} cannot be opened: {error.orig}. It "
                "must be a file of your own; FEDLLM_HOME says where it is looked for"
            ) from None
        self.epoch: int | None = None  # set by the lease

    def close(self) -> None:
        """Close the database's connections."""
        self._engine.dispose()

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a transaction for writing.

        Raises:
            LeaseError: another coordinator leads.
            CancelledError: this one was deposed by `fedllm cancel`.
            DiskFullError: the disk has no room.
            JournalError: the database is unreachable; nothing of the transaction is on record, unless only
                the reply to its commit was lost.
        """
        folder = coordinator_folder(self.federation)
        with (
            room(folder, "resume the run with --resume"),
            Session(self._writes) as session,
            session.begin(),
        ):
            if (deposed := self._deposed(session, with_for_update=True)) is not None:
                raise deposed
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a session for reading."""
        with Session(self._engine) as session:
            yield session

    def deposed(self) -> FedllmError | None:
        """Return why this coordinator no longer leads; None while it does, or if it never did."""
        with self.read() as session:
            return self._deposed(session)

    def _deposed(self, session: Session, *, with_for_update: bool = False) -> FedllmError | None:
        if self.epoch is None:
            return None
        lease = session.get(LeaseRow, self.federation, with_for_update=with_for_update or None)
        if lease is not None and lease.epoch == self.epoch:
            return None
        row = session.get(RunRow, lease.run) if lease and lease.run else None
        if row is not None and row.status == "cancelled":
            return CancelledError(f"{row.run} was cancelled; go on with --resume {row.run}")
        return LeaseError(f"{self.federation}: another coordinator took over; this one stops")

    def now(self, session: Session) -> float:
        """Return the time by the database's clock, which all coordinators share; s since 1970."""
        return database_clock(session)

    # outcomes of steps

    def outcome(self, run: str, number: int, step: str, kind: type[Outcome]) -> Outcome | None:
        """Return a step's outcome, or None if it has none yet."""
        with self.read() as session:
            row = session.get(OutcomeRow, (run, number, step))
            return kind.model_validate_json(row.body) if row else None

    def outcomes(self, run: str, step: str, kind: type[Outcome], last: int) -> dict[int, Outcome]:
        """Return a step's outcomes by round, for the rounds up to `last` that have one, in a single read."""
        wanted = (OutcomeRow.run == run, OutcomeRow.step == step, OutcomeRow.round.between(1, last))
        with self.read() as session:
            rows = session.execute(
                select(OutcomeRow.round, OutcomeRow.body).where(*wanted).order_by(OutcomeRow.round)
            )
            return {number: kind.model_validate_json(body) for number, body in rows}

    def once(
        self, run: str, number: int, step: str, kind: type[Outcome], compute: Callable[[], Outcome]
    ) -> Outcome:
        """Run a step unless it has an outcome on record, and return its outcome.

        Raises:
            DiskFullError: the coordinator's disk has no room; the step can be run again.
        """
        done = self.outcome(run, number, step, kind)
        if done is not None:
            return done
        with room(coordinator_folder(self.federation), f"go on with --resume {run}"):
            outcome = compute()
            earlier = self._keep_outcome(run, number, step, outcome.model_dump_json(by_alias=True))
        return outcome if earlier is None else kind.model_validate_json(earlier)

    @_again
    def _keep_outcome(self, run: str, number: int, step: str, body: str) -> str | None:
        """Store an outcome and return None; if one is stored already, keep and return that one."""
        with self.write() as session:
            row = session.get(OutcomeRow, (run, number, step))
            if row is None:
                session.add(OutcomeRow(run=run, round=number, step=step, body=body, at=time.time()))
            return row.body if row else None

    def require(self, run: str, number: int, step: str, kind: type[Outcome]) -> Outcome:
        """Return a step's outcome; raise `RoundError` if it has none yet."""
        done = self.outcome(run, number, step, kind)
        if done is None:
            raise RoundError(f"round {number} of {run} has no {step} yet: resume with --resume {run}")
        return done

    def times(self, run: str) -> dict[tuple[int, str], float]:
        """Return when each step of a run was done, by round and step; s since 1970."""
        with self.read() as session:
            rows = session.scalars(select(OutcomeRow).where(OutcomeRow.run == run))
            return {(row.round, row.step): row.at for row in rows}

    # signed bytes

    def has_bytes(self, key: str) -> bool:
        """Return whether bytes were ever committed for `key`."""
        with self.read() as session:
            return session.get(OutboxRow, key) is not None

    def commit_bytes(self, key: str, make: Callable[[], bytes]) -> bytes:
        """Return the bytes committed for `key`; if there are none, make and commit them."""
        with self.read() as session:
            row = session.get(OutboxRow, key)
            if row is not None:
                return row.body
        return self._keep_bytes(key, make())

    @_again
    def _keep_bytes(self, key: str, body: bytes) -> bytes:
        with self.write() as session:
            row = session.get(OutboxRow, key)
            if row is None:
                session.add(OutboxRow(key=key, body=body))
            return row.body if row else body

    # the roster and the head

    def roster(self) -> str | None:
        """Return the newest roster as JSON, or None before the first site."""
        with self.read() as session:
            row = session.get(FederationRow, self.federation)
            return row.roster if row else None

    def save_roster(self, roster: str, *, after: int) -> None:
        """Store a roster (JSON) as the successor of version `after`.

        Raises:
            ConfigError: the stored roster has another version by now.
        """
        changed = ConfigError(f"the roster of {self.federation} changed meanwhile: call again")
        try:
            with self.write() as session:
                row = session.get(FederationRow, self.federation, with_for_update=True)
                if row is not None and json.loads(row.roster)["roster_version"] != after:
                    raise changed
                if row is None:
                    session.add(FederationRow(federation=self.federation, roster=roster, head_counter=0))
                else:
                    row.roster = roster
        except IntegrityError:  # two coordinators wrote the first one
            raise changed from None

    @_again
    def next_head(self) -> int:
        """Return the next head counter, one that was never used."""
        with self.write() as session:
            row = session.get_one(FederationRow, self.federation)
            row.head_counter += 1
            return row.head_counter

"""The coordinator's journal: who leads, which step is done, what is still to be published.

SQLite beside the coordinator's keys, or any database that SQLAlchemy knows under `FEDLLM_JOURNAL_URL`
(Postgres where two machines may have to take over from each other). Every write of a leader is made in
the transaction that checks its epoch, so that a zombie cannot overwrite its successor's word.
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
from fedllm.journal.place import coordinator_folder, journal_url
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


# A write that says the same once it is repeated: the answer to its commit may have been lost.
_again = stamina.retry(on=JournalError, attempts=4, timeout=60.0)


class Journal:
    """The journal of one federation."""

    def __init__(self, federation: str, url: str | None = None) -> None:
        self.federation = federation
        url = url or journal_url(federation)
        folder = coordinator_folder(federation)  # SQLite makes its file there, not the folder
        self._engine: Engine = open_database(url)
        self._writes = self._engine.execution_options(writes=True)
        try:
            with alone(self._engine):
                Table.metadata.create_all(self._writes)
                self.security = SecurityLog(self._writes)
        except OperationalError as error:  # of SQLite: Postgres' own errors have their names by now
            raise JournalError(
                f"the journal of {federation} in {folder} cannot be opened: {error.orig}. It "
                "must be a file of your own; FEDLLM_HOME says where it is looked for"
            ) from None
        self.epoch: int | None = None  # set by the lease

    def close(self) -> None:
        """Give the database's connections back."""
        self._engine.dispose()

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction for a coordinator that leads.

        Raises:
            LeaseError: another one leads.
            CancelledError: it was deposed by `fedllm cancel`.
            DiskFullError: the disk has no room.
            JournalError: the database broke off; nothing of the transaction is on record, unless it was the
                answer to its commit that was lost.
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
        """A session for reading."""
        with Session(self._engine) as session:
            yield session

    def deposed(self) -> FedllmError | None:
        """Why this coordinator no longer leads; None while it does, or never did."""
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
        """S since 1970 by a clock that all coordinators of this journal share: its database's."""
        return database_clock(session)

    # what steps came to

    def outcome(self, run: str, number: int, step: str, kind: type[Outcome]) -> Outcome | None:
        """What a step came to, or None when it has not been done."""
        with self.read() as session:
            row = session.get(OutcomeRow, (run, number, step))
            return kind.model_validate_json(row.body) if row else None

    def outcomes(self, run: str, step: str, kind: type[Outcome], last: int) -> dict[int, Outcome]:
        """What a step came to in each of a run's rounds up to `last` that has done it, by one read."""
        mine = (OutcomeRow.run == run, OutcomeRow.step == step, OutcomeRow.round.between(1, last))
        with self.read() as session:
            rows = session.execute(
                select(OutcomeRow.round, OutcomeRow.body).where(*mine).order_by(OutcomeRow.round)
            )
            return {number: kind.model_validate_json(body) for number, body in rows}

    def once(
        self, run: str, number: int, step: str, kind: type[Outcome], compute: Callable[[], Outcome]
    ) -> Outcome:
        """Do a step unless it has been done; either way, say what it came to.

        Raises:
            DiskFullError: the coordinator's disk has no room; the step can be done again.
        """
        done = self.outcome(run, number, step, kind)
        if done is not None:
            return done
        with room(coordinator_folder(self.federation), f"go on with --resume {run}"):
            made = compute()
            kept = self._keep_outcome(run, number, step, made.model_dump_json(by_alias=True))
        return made if kept is None else kind.model_validate_json(kept)

    @_again
    def _keep_outcome(self, run: str, number: int, step: str, body: str) -> str | None:
        """Keep what a step came to; what was kept before stays, and is returned."""
        with self.write() as session:
            row = session.get(OutcomeRow, (run, number, step))
            if row is None:
                session.add(OutcomeRow(run=run, round=number, step=step, body=body, at=time.time()))
            return row.body if row else None

    def require(self, run: str, number: int, step: str, kind: type[Outcome]) -> Outcome:
        """What a step came to. Raises `RoundError` when it has not been done."""
        done = self.outcome(run, number, step, kind)
        if done is None:
            raise RoundError(f"round {number} of {run} has no {step} yet: resume with --resume {run}")
        return done

    def times(self, run: str) -> dict[tuple[int, str], float]:
        """When each step of a run was done, s since 1970, by round and step."""
        with self.read() as session:
            rows = session.scalars(select(OutcomeRow).where(OutcomeRow.run == run))
            return {(row.round, row.step): row.at for row in rows}

    # what was signed

    def has_bytes(self, key: str) -> bool:
        """Whether bytes were ever committed for `key`."""
        with self.read() as session:
            return session.get(OutboxRow, key) is not None

    def commit_bytes(self, key: str, make: Callable[[], bytes]) -> bytes:
        """The bytes meant for `key`: those committed earlier, else those made now, committed."""
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
        """The newest roster as JSON, or None before the first site."""
        with self.read() as session:
            row = session.get(FederationRow, self.federation)
            return row.roster if row else None

    def save_roster(self, roster: str, *, after: int) -> None:
        """Keep the newest roster (JSON), the one after version `after`.

        Raises:
            ConfigError: the roster is of another version by now.
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
        except IntegrityError:  # both wrote the first one
            raise changed from None

    @_again
    def next_head(self) -> int:
        """A head counter that was never used."""
        with self.write() as session:
            row = session.get_one(FederationRow, self.federation)
            row.head_counter += 1
            return row.head_counter

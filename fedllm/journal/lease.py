"""The lease: one coordinator leads a federation at a time, and each successor has a higher epoch."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

import psutil
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from fedllm.errors import CancelledError, ConfigError, DiskFullError, FedllmError, JournalError, LeaseError
from fedllm.journal.journal import Journal
from fedllm.journal.tables import LeaseRow, RunRow

TTL = 30.0  # s until the lease of a silent coordinator expires
RENEW = 5.0  # s between renewals
LOOK = 1.0  # s between checks that no other coordinator took over


def _this_process() -> str:
    """Return host, process id and start time: a process id alone may be reused."""
    process = psutil.Process()
    return f"{socket.gethostname()}|{process.pid}|{process.create_time():.2f}"


def is_dead(holder: str) -> bool:
    """Return whether the holder is certainly gone; of a process on another host this is never certain."""
    host, pid, started = holder.split("|")
    if host != socket.gethostname():
        return False
    try:
        process = psutil.Process(int(pid))
        return abs(process.create_time() - float(started)) > 1 or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Lease:
    """A context in which this coordinator leads a federation; a thread renews the lease.

    Entering takes the lease if it is free, has expired, or its holder's process is gone; a run that the
    holder left running is marked `crashed`. Raises `LeaseError` while another coordinator holds it.

    Args:
        journal: the federation's.
        run: the training to lead.
        seize: depose the leader of this run, even if it is alive, and mark the run `cancelled`; raises
            `ConfigError` if there is no such run, or it is over.
        on_lost: called with the reason when this coordinator loses the lease.
    """

    def __init__(
        self,
        journal: Journal,
        run: str,
        *,
        seize: bool = False,
        on_lost: Callable[[FedllmError], None] | None = None,
    ) -> None:
        self._journal = journal
        self._run = run
        self._seize = seize
        self._on_lost = on_lost
        self._holder = _this_process()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Self:
        with self._journal.write() as session:
            row = self._row(session)
            now = self._journal.now(session)
            if self._seize:
                self._cancel(session, now)
            if row.holder:
                self._succeed(session, row, now)
            row.epoch += 1
            row.holder, row.run, row.expires = self._holder, self._run, now + TTL
            epoch = row.epoch
        self._journal.epoch = epoch
        self._thread.start()
        return self

    def _row(self, session: Session) -> LeaseRow:
        """Return the federation's row, locked; create it if absent. Two coordinators may do so at once."""
        with suppress(IntegrityError), session.begin_nested():
            if session.get(LeaseRow, self._journal.federation) is None:
                session.add(LeaseRow(federation=self._journal.federation, epoch=0, expires=0.0))
        return session.get_one(
            LeaseRow, self._journal.federation, with_for_update=True, populate_existing=True
        )

    def _succeed(self, session: Session, row: LeaseRow, now: float) -> None:
        """Raise `LeaseError` while the holder lives; mark the run of a dead holder as crashed."""
        assert row.holder is not None  # noqa: S101 - the caller checked
        host, pid, _ = row.holder.split("|")
        if self._seize and row.run == self._run:
            return
        if row.expires > now and not is_dead(row.holder):
            raise LeaseError(
                f"{self._journal.federation}: the coordinator with process {pid} on {host} leads run "
                f"{row.run}; wait for it, stop it with `fedllm cancel {row.run}`, or let its lease run out "
                f"in {row.expires - now:.0f} s"
            )
        run = session.get(RunRow, row.run) if row.run else None
        if run is not None and run.status == "running":
            run.status, run.finished = "crashed", now
            run.reason = f"its coordinator, process {pid} on {host}, is gone; go on with --resume {run.run}"

    def _cancel(self, session: Session, now: float) -> None:
        """Mark the run `cancelled` in the transaction that changes the leader; the deposed one reads it."""
        run = session.get(RunRow, self._run)
        if run is None or run.federation != self._journal.federation:
            raise ConfigError(
                f"there is no run {self._run} of {self._journal.federation} here: Prefect's log says the id"
            )
        if run.status not in {"running", "crashed", "cancelled"}:
            raise ConfigError(f"{self._run} is over: {run.status} ({run.reason})")
        run.status, run.reason, run.finished = "cancelled", "cancelled by its coordinator", now

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(RENEW)
        try:
            with self._journal.write() as session:
                row = session.get_one(LeaseRow, self._journal.federation)
                row.holder, row.expires = None, 0.0
        except (LeaseError, CancelledError):
            pass  # another coordinator took over: there is no lease to return
        except (DiskFullError, JournalError):
            pass  # it cannot be returned; it ends with this process

    def _renew(self) -> None:
        checks = 0
        while not self._stop.wait(min(LOOK, RENEW)):
            checks += 1
            try:
                lost = self._journal.deposed()
                if lost is None and checks * LOOK >= RENEW:
                    checks = 0
                    with self._journal.write() as session:
                        row = session.get_one(LeaseRow, self._journal.federation)
                        row.expires = self._journal.now(session) + TTL
            except (LeaseError, CancelledError) as error:
                lost = error
            except (SQLAlchemyError, DiskFullError, JournalError):
                continue  # a busy database: the next renewal comes well before the lease expires
            if lost is not None:
                if self._on_lost:
                    self._on_lost(lost)
                return

"""One coordinator leads a federation at a time, and whoever took over has the higher epoch."""

import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import psutil
from sqlalchemy.exc import SQLAlchemyError

from fedllm.coordinator.journal import Journal
from fedllm.coordinator.tables import LeaseRow
from fedllm.errors import LeaseError

TTL = 30.0  # s until the lease of a coordinator that fell silent runs out
RENEW = 5.0  # s between renewals


def _me() -> str:
    """Host, process and its start: a process id alone may be used again."""
    process = psutil.Process()
    return f"{socket.gethostname()}|{process.pid}|{process.create_time():.2f}"


def _is_dead(holder: str) -> bool:
    """Whether the holder surely is gone: only a process of this host can be known to be."""
    host, pid, started = holder.split("|")
    if host != socket.gethostname():
        return False
    try:
        process = psutil.Process(int(pid))
        return abs(process.create_time() - float(started)) > 1 or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Lease:
    """Leads a federation while it is entered; renews itself in a thread.

    Entering takes the lease when it is free, has run out, or its holder's process is gone. Raises
    `LeaseError` while another coordinator holds it.
    """

    def __init__(self, journal: Journal, run: str, *, on_lost: Callable[[], None] | None = None) -> None:
        self._journal = journal
        self._run = run
        self._on_lost = on_lost
        self._holder = _me()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Self:
        with self._journal.write() as session:
            row = session.get(LeaseRow, self._journal.federation, with_for_update=True)
            if row is None:
                row = LeaseRow(federation=self._journal.federation, epoch=0, expires=0.0)
                session.add(row)
            if row.holder and row.expires > time.time() and not _is_dead(row.holder):
                host, pid, _ = row.holder.split("|")
                raise LeaseError(
                    f"{self._journal.federation}: the coordinator with process {pid} on {host} leads run "
                    f"{row.run}; wait for it, stop it, or let its lease run out in "
                    f"{row.expires - time.time():.0f} s"
                )
            row.epoch += 1
            row.holder, row.run, row.expires = self._holder, self._run, time.time() + TTL
            epoch = row.epoch
        self._journal.epoch = epoch
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(RENEW)
        try:
            with self._journal.write() as session:
                row = session.get_one(LeaseRow, self._journal.federation)
                row.holder, row.expires = None, 0.0
        except LeaseError:
            pass  # taken over meanwhile: nothing of ours to give back

    def _renew(self) -> None:
        while not self._stop.wait(RENEW):
            try:
                with self._journal.write() as session:
                    session.get_one(LeaseRow, self._journal.federation).expires = time.time() + TTL
            except LeaseError:
                if self._on_lost:
                    self._on_lost()
                return
            except SQLAlchemyError:
                continue  # a busy database: the next renewal comes well before the lease runs out

"""The file of a site's ledger: entries, the heads that coordinators signed, and transactions that last.

SQLite in WAL mode with synchronous=FULL: what a transaction wrote is on the disk when it returns, or not
there at all. A transaction that writes holds the write lock from its beginning, so several processes may
share a file.
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, Float, Integer, LargeBinary, String, create_engine, event, insert, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from fedllm.disk import room
from fedllm.errors import LedgerError
from fedllm.protocol.entry import Entry, Head

WAIT = 60_000  # ms for another process' transaction

Charged = tuple[str, str, int]  # federation, run and round


class _Table(DeclarativeBase):
    pass


class _Row(_Table):
    __tablename__ = "entry"
    dataset: Mapped[str] = mapped_column(String(100), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True)
    entry: Mapped[str]  # JSON of the whole entry
    at: Mapped[float] = mapped_column(Float)  # s since 1970, by this machine; never shown to others


class _Acknowledged(_Table):
    __tablename__ = "acknowledged"
    dataset: Mapped[str] = mapped_column(String(100), primary_key=True)
    federation: Mapped[str] = mapped_column(String(63), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer)
    sha256: Mapped[str] = mapped_column(String(64))
    envelope: Mapped[bytes] = mapped_column(LargeBinary)  # what the coordinator signed


class _Released(_Table):
    __tablename__ = "released"
    dataset: Mapped[str] = mapped_column(String(100), primary_key=True)
    federation: Mapped[str] = mapped_column(String(63), primary_key=True)
    run: Mapped[str] = mapped_column(String(63), primary_key=True)
    round: Mapped[int] = mapped_column(Integer, primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))  # of the update


class LedgerFile:
    """One SQLite file. Raises `LedgerError` wherever the file is damaged, `DiskFullError` without room."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._named(), room(path.parent, "start the agent again"):
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._engine = create_engine(f"sqlite:///{path}")
            event.listen(self._engine, "connect", _pragmas)
            event.listen(self._engine, "begin", _begin)
            self._writes = self._engine.execution_options(writes=True)
            self.check()
            _Table.metadata.create_all(self._writes)

    def check(self) -> None:
        """Raise `LedgerError` when the file's pages are damaged."""
        with self._named(), self._engine.begin() as connection:
            said = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
        if said != "ok":
            raise LedgerError(f"the ledger {self.path} is torn: {said.splitlines()[-1]}")

    def close(self) -> None:
        """Give the file back."""
        self._engine.dispose()

    @contextmanager
    def transaction(self, *, writes: bool) -> Iterator[Connection]:
        """Everything in the block, or nothing; on the disk when the block is left."""
        engine = self._writes if writes else self._engine
        with self._named(), room(self.path.parent, "it goes on by itself"), engine.begin() as connection:
            yield connection

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Say of which file SQLite complains."""
        try:
            yield
        except DBAPIError as error:
            kind = getattr(error.orig, "sqlite_errorname", "")
            if kind == "SQLITE_BUSY":
                raise LedgerError(f"the ledger {self.path} is in use by another process: try again") from None
            raise LedgerError(f"the ledger {self.path} is torn or cannot be read: {error.orig}") from None
        except (sqlite3.Error, OSError) as error:
            raise LedgerError(f"the ledger {self.path} cannot be read: {error}") from None


def read_entries(connection: Connection, dataset: str, after: int = -1) -> list[Entry]:
    """A data set's entries in order. Raises `LedgerError` for a row that holds no such entry."""
    rows = connection.execute(
        select(_Row.seq, _Row.entry).where(_Row.dataset == dataset, _Row.seq > after).order_by(_Row.seq)
    )
    return [_entry(dataset, seq, text) for seq, text in rows]


def read_entry(connection: Connection, dataset: str, seq: int) -> Entry | None:
    """One entry."""
    text = connection.scalar(select(_Row.entry).where(_Row.dataset == dataset, _Row.seq == seq))
    return None if text is None else _entry(dataset, seq, text)


def append(connection: Connection, entry: Entry) -> None:
    """Write one entry more; there is no way to write over one."""
    row = {"dataset": entry.dataset, "seq": entry.seq, "entry": entry.model_dump_json(), "at": time.time()}
    connection.execute(insert(_Row).values(row))


def datasets(connection: Connection) -> list[str]:
    """Whose entries or signed heads are here."""
    found = {
        *connection.scalars(select(_Row.dataset).distinct()),
        *connection.scalars(select(_Acknowledged.dataset)),
    }
    return sorted(found)


def marks(connection: Connection, dataset: str) -> dict[str, Head]:
    """The highest head that each federation's coordinator signed."""
    rows = connection.execute(
        select(_Acknowledged.federation, _Acknowledged.seq, _Acknowledged.sha256).where(
            _Acknowledged.dataset == dataset
        )
    )
    return {federation: Head(seq=seq, sha256=sha256) for federation, seq, sha256 in rows}


def mark(connection: Connection, dataset: str, federation: str, head: Head, envelope: bytes) -> None:
    """Note a head that a coordinator signed, in the place of a lower one."""
    row: dict[str, Any] = {
        "dataset": dataset,
        "federation": federation,
        "seq": head.seq,
        "sha256": head.sha256,
        "envelope": envelope,
    }
    connection.execute(insert(_Acknowledged).prefix_with("OR REPLACE").values(row))


def released(connection: Connection, dataset: str, charged: Charged) -> str | None:
    """The hash of the update that a charge paid for, once it was about to leave."""
    federation, run, number = charged
    return connection.scalar(
        select(_Released.sha256).where(
            _Released.dataset == dataset,
            _Released.federation == federation,
            _Released.run == run,
            _Released.round == number,
        )
    )


def release(connection: Connection, dataset: str, charged: Charged, sha256: str) -> None:
    """Note it; there is no way to write over one."""
    federation, run, number = charged
    row = {"dataset": dataset, "federation": federation, "run": run, "round": number, "sha256": sha256}
    connection.execute(insert(_Released).values(row))


def _entry(dataset: str, seq: int, text: str) -> Entry:
    place = f"ledger of {dataset}: entry {seq}"
    try:
        entry = Entry.model_validate_json(text)
    except (ValidationError, TypeError) as error:
        said = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise LedgerError(f"{place} was edited: {said[:200]}") from None
    if (entry.dataset, entry.seq) != (dataset, seq):
        raise LedgerError(f"{place} was edited: it holds entry {entry.seq} of {entry.dataset}")
    if entry.context_sha256 and entry.context is None:
        raise LedgerError(f"{place} was edited: its context was taken away")
    return entry


def _pragmas(connection: Any, _record: object) -> None:  # noqa: ANN401 - a DBAPI connection has no type
    connection.isolation_level = None  # transactions begin where `_begin` says
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={WAIT}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

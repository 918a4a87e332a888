"""Store a ledger's entries and the heads that coordinators signed in one SQLite file.

SQLite runs in WAL mode with synchronous=FULL: a transaction is wholly on disk when it returns, or not at all.
A writing transaction holds the write lock from its beginning, so several processes may share a file.
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
from fedllm.protocol.entry import ChainHead, LedgerEntry

WAIT = 60_000  # ms to wait for another process' transaction

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
    """One SQLite file. Methods raise `LedgerError` if it is damaged, `DiskFullError` without disk room."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._with_path(), room(path.parent, "start the agent again"):
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._engine = create_engine(f"sqlite:///{path}")
            event.listen(self._engine, "connect", _pragmas)
            event.listen(self._engine, "begin", _begin)
            self._writes = self._engine.execution_options(writes=True)
            self.check()
            _Table.metadata.create_all(self._writes)

    def check(self) -> None:
        """Raise `LedgerError` if the file's pages are damaged."""
        with self._with_path(), self._engine.begin() as connection:
            result = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
        if result != "ok":
            raise LedgerError(f"the ledger {self.path} is torn: {result.splitlines()[-1]}")

    def close(self) -> None:
        """Close the file."""
        self._engine.dispose()

    @contextmanager
    def transaction(self, *, writes: bool) -> Iterator[Connection]:
        """Run the block in one transaction, which is on disk when the block is left."""
        engine = self._writes if writes else self._engine
        with self._with_path(), room(self.path.parent, "it goes on by itself"), engine.begin() as connection:
            yield connection

    @contextmanager
    def _with_path(self) -> Iterator[None]:
        """Turn SQLite's errors into `LedgerError`s that name the file."""
        try:
            yield
        except DBAPIError as error:
            kind = getattr(error.orig, "sqlite_errorname", "")
            if kind == "SQLITE_BUSY":
                raise LedgerError(f"the ledger {self.path} is in use by another process: try again") from None
            raise LedgerError(f"the ledger {self.path} is torn or cannot be read: {error.orig}") from None
        except (sqlite3.Error, OSError) as error:
            raise LedgerError(f"the ledger {self.path} cannot be read: {error}") from None


def read_entries(connection: Connection, dataset: str, after: int = -1) -> list[LedgerEntry]:
    """Return a data set's entries in order. Raises `LedgerError` for an invalid row."""
    rows = connection.execute(
        select(_Row.seq, _Row.entry).where(_Row.dataset == dataset, _Row.seq > after).order_by(_Row.seq)
    )
    return [_entry(dataset, seq, text) for seq, text in rows]


def read_entry(connection: Connection, dataset: str, seq: int) -> LedgerEntry | None:
    """Return one entry; None if there is none with this seq."""
    text = connection.scalar(select(_Row.entry).where(_Row.dataset == dataset, _Row.seq == seq))
    return None if text is None else _entry(dataset, seq, text)


def append(connection: Connection, entry: LedgerEntry) -> None:
    """Insert an entry; an existing one is never overwritten."""
    row = {"dataset": entry.dataset, "seq": entry.seq, "entry": entry.model_dump_json(), "at": time.time()}
    connection.execute(insert(_Row).values(row))


def datasets(connection: Connection) -> list[str]:
    """Return the sorted data sets that have entries or signed heads."""
    names = {
        *connection.scalars(select(_Row.dataset).distinct()),
        *connection.scalars(select(_Acknowledged.dataset)),
    }
    return sorted(names)


def marks(connection: Connection, dataset: str) -> dict[str, ChainHead]:
    """Return the highest head that each federation's coordinator signed, by federation."""
    rows = connection.execute(
        select(_Acknowledged.federation, _Acknowledged.seq, _Acknowledged.sha256).where(
            _Acknowledged.dataset == dataset
        )
    )
    return {federation: ChainHead(seq=seq, sha256=sha256) for federation, seq, sha256 in rows}


def mark(connection: Connection, dataset: str, federation: str, head: ChainHead, envelope: bytes) -> None:
    """Record a head that a coordinator signed, replacing its former one."""
    row: dict[str, Any] = {
        "dataset": dataset,
        "federation": federation,
        "seq": head.seq,
        "sha256": head.sha256,
        "envelope": envelope,
    }
    connection.execute(insert(_Acknowledged).prefix_with("OR REPLACE").values(row))


def released(connection: Connection, dataset: str, charged: Charged) -> str | None:
    """Return the recorded hash of the update that a charge paid for; None before it is recorded."""
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
    """Record the update that a charge paid for; an existing record is never overwritten."""
    federation, run, number = charged
    row = {"dataset": dataset, "federation": federation, "run": run, "round": number, "sha256": sha256}
    connection.execute(insert(_Released).values(row))


def _entry(dataset: str, seq: int, text: str) -> LedgerEntry:
    place = f"ledger of {dataset}: entry {seq}"
    try:
        entry = LedgerEntry.model_validate_json(text)
    except (ValidationError, TypeError) as error:
        why = error.errors(include_url=False)[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise LedgerError(f"{place} was edited: {why[:200]}") from None
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

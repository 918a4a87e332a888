"""The file of withdrawals in a site's home: one SQLite table with one row per withdrawal.

`forgotten.db` holds the table `withdrawal`:

    seq    0, 1, 2, …
    at     when, UTC
    field  the record's field that is compared
    value  HMAC-SHA256 of field and value under `forgotten.key`: the table keeps no value
    mac    HMAC-SHA256 of all other columns under the same key

The MAC reveals a damaged row or the key of another home. The table guards against accidents, not against
anyone with write access to the home (docs/decisions/0034).
"""

import hashlib
import hmac
import json
import os
import sqlite3
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import (
    URL,
    Column,
    Engine,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    create_engine,
    event,
    select,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from fedllm.disk import room, sync_folder
from fedllm.errors import DataError
from fedllm.text import one_line

FILE, KEY, LOCK = "forgotten.db", "forgotten.key", "forgotten.lock"
LOG = f"{FILE}-wal"  # SQLite's log: the newest rows while the database is in use
RESTORE = "nothing is trained until it is restored from your backup"

_WAIT = 30.0  # s for another process
_TABLE = Table(
    "withdrawal",
    MetaData(),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", String, nullable=False),
    Column("field", String, nullable=False),
    Column("value", String(64), nullable=False),
    Column("mac", String(64), nullable=False),
)


@dataclass(frozen=True)
class Withdrawal:
    """One row: the time from which records with a certain value in `field` are left out."""

    seq: int
    at: str
    field: str
    value: str  # HMAC, hex

    @classmethod
    def now(cls, field: str, value: str) -> "Withdrawal":
        """Return a withdrawal at the present second, not yet numbered."""
        return cls(-1, datetime.now(UTC).isoformat(timespec="seconds"), field, value)


def marked(key: bytes, field: str, value: str) -> str:
    """Return the HMAC that the table keeps instead of a value. Values are compared after Unicode NFC."""
    text = json.dumps([field, unicodedata.normalize("NFC", value)]).encode()
    return hmac.new(key, b"fedllm.forgotten/1 value\n" + text, hashlib.sha256).hexdigest()


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Keep other processes from writing withdrawals."""
    try:
        with FileLock(home / LOCK, timeout=_WAIT, mode=0o600):
            yield
    except Timeout:
        raise DataError(f"{home / FILE} is in use by another process: try again") from None


def read_entries(home: Path, key: bytes) -> tuple[Withdrawal, ...]:
    """Return every row in order, verified. Needs no lock: a reader sees the last commit.

    Raises:
        DataError: the file is missing, unreadable or damaged, or the key is another file's.
    """
    path = home / FILE
    if not path.is_file():
        raise DataError(f"{path} is missing: {RESTORE}; if no record was ever withdrawn here, remove {KEY}")
    reading = _named(path, f"{path} is torn or cannot be read", f"; {RESTORE}")
    with reading, _opened(path) as engine, engine.begin() as connection:
        state = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
        rows = connection.execute(select(_TABLE).order_by(_TABLE.c.seq)).all() if state == "ok" else []
    if state != "ok":
        raise DataError(f"{path} is torn: {state.splitlines()[-1]}; {RESTORE}")
    return tuple(_entry(key, row, seq, path) for seq, row in enumerate(rows))


def add_entries(home: Path, key: bytes, entries: Sequence[Withdrawal]) -> None:
    """Add all rows in one transaction; on the disk when this returns. Requires the lock.

    The file appears with its first rows in it, so that no reader sees it without a table.

    Raises:
        DataError: the file cannot be written.
        DiskFullError: there is no room.
    """
    path = home / FILE
    rows = [vars(entry) | {"mac": _mac(key, entry)} for entry in entries]
    with _named(path, f"cannot write the withdrawals in {home}"), room(home, "run it again"):
        if path.is_file():
            _insert(path, rows)
            return
        with TemporaryDirectory(dir=home, prefix=".forgotten.") as beside:
            draft = Path(beside) / FILE
            os.close(os.open(draft, os.O_WRONLY | os.O_CREAT, 0o600))
            _insert(draft, rows)
            draft.rename(path)
        sync_folder(home)


def _insert(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with _opened(path) as engine, engine.begin() as connection:
        _TABLE.create(connection, checkfirst=True)
        if rows:
            connection.execute(_TABLE.insert(), rows)


def _entry(key: bytes, row: Row[Any], seq: int, path: Path) -> Withdrawal:
    entry = Withdrawal(row.seq, row.at, row.field, row.value)
    if entry.seq != seq or not hmac.compare_digest(str(row.mac).encode(), _mac(key, entry).encode()):
        raise DataError(f"{path}, row {seq} was edited, or {KEY} is not the one of this file: {RESTORE}")
    return entry


def _mac(key: bytes, entry: Withdrawal) -> str:
    # A damaged row may hold bytes instead of text.
    text = json.dumps([entry.seq, entry.at, entry.field, entry.value], default=repr).encode()
    return hmac.new(key, b"fedllm.forgotten/2 row\n" + text, hashlib.sha256).hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[Engine]:
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)
    event.listen(engine, "connect", _pragmas)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    try:
        yield engine
    finally:
        engine.dispose()


def _pragmas(connection: Any, _record: object) -> None:  # noqa: ANN401 - a DBAPI connection has no type
    connection.isolation_level = None  # the table and its first rows are one transaction
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={int(_WAIT * 1000)}")
    cursor.execute("PRAGMA journal_mode=WAL")  # allows reads during a write
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


@contextmanager
def _named(path: Path, failure: str, advice: str = "") -> Iterator[None]:
    """Turn errors of SQLite or the system into a `DataError` that names the file."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if getattr(cause, "sqlite_errorname", "") == "SQLITE_BUSY":
            raise DataError(f"{path} is in use by another process: try again") from None
        raise DataError(f"{failure}: {one_line(str(cause))}{advice}") from None
    except OSError as error:
        raise DataError(f"{failure}: {error.strerror}{advice}") from None

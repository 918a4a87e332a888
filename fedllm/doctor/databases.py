"""Databases: whether they can be read, are whole, and do not grow out of hand. Nothing is written."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from fedllm.doctor.finding import Finding, fail, ok, warn
from fedllm.journal.database import copy_connection
from fedllm.postgres_address import is_postgres, shown, with_driver
from fedllm.text import one_line

_PATIENCE = 2.0  # s for the check of one file; who writes to one without a write-ahead log waits that long
_BUSY = 5.0  # s for another process' transaction
_LOOKS = 3  # at a file that is written while it is read
_WAL = 512.0  # MB of a write-ahead log that nobody folds in any more
_RESTORE = "stop who writes to it, and restore it from a backup"
_LIMITS = {
    "connect_timeout": 5,  # s
    "tcp_user_timeout": 10_000,  # ms; a server behind a cut link is not waited for
}
_STATEMENT = 5000  # ms
_HEADER = "import sys; sys.stdout.buffer.write(open(sys.argv[1], 'rb').read(20))"


def read_only(path: Path) -> sqlite3.Connection:
    """A SQLite file, opened so that neither it nor a file beside it changes."""
    # Opening one with a write-ahead log that nobody has open would make that log.
    mode = "immutable=1" if _is_closed(path) else "mode=ro"
    return sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, timeout=_BUSY, check_same_thread=False)


def _is_closed(path: Path) -> bool:
    """Whether a file is one with a write-ahead log that nobody has open."""
    return not path.with_name(f"{path.name}-wal").exists() and _header(path)[18:20] == b"\2\2"


def _header(path: Path) -> bytes:
    """A file's first bytes, read by a process of its own.

    A process that closes a file loses every lock that its own SQLite holds on it.
    """
    argv = [sys.executable, "-I", "-S", "-c", _HEADER, str(path)]
    return subprocess.run(argv, capture_output=True, check=False).stdout


def copy(path: Path, target: Path) -> None:
    """Copy a SQLite file, which may be in use. Raises `sqlite3.Error` when it cannot be, or stays locked."""
    source, copied = read_only(path), sqlite3.connect(target)
    try:
        copy_connection(source, copied, _BUSY)
    finally:
        copied.close()
        source.close()


def reading_engine(url: str) -> Engine:
    """An engine that reads a database and cannot write to it; a Postgres that is silent ends in an error."""
    if is_postgres(url):
        return _postgres(with_driver(url))
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        path = Path(parsed.database or "")
        return create_engine("sqlite://", creator=lambda: read_only(path))
    return create_engine(url)


def _postgres(url: str) -> Engine:
    given = make_url(url).query
    limits = {name: value for name, value in _LIMITS.items() if name not in given}
    engine = create_engine(url, connect_args=limits)
    event.listen(engine, "begin", _limit)
    return engine.execution_options(postgresql_readonly=True)


def _limit(connection: Connection) -> None:
    # Of this transaction alone: a pool between here and the server may lend the connection to others.
    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {_STATEMENT}")


def database(name: str, url: str) -> Iterator[Finding]:
    """One database.

    Args:
        name: of the finding.
        url: as SQLAlchemy takes it.
    """
    path = sqlite_file(url)
    if path is None:
        yield _server(name, url)
    elif path.exists():
        yield _file(name, path)
    else:
        yield ok(name, f"{path} is not there yet: made at first use")


def sqlite_file(url: str) -> Path | None:
    """The file that an address names; None: a server's."""
    if is_postgres(url):
        return None
    parsed = make_url(url)
    return Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None


def _server(name: str, url: str) -> Finding:
    engine = reading_engine(url)
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
            size = 0
            if engine.name == "postgresql":
                size = connection.scalar(text("SELECT pg_database_size(current_database())")) or 0
    except SQLAlchemyError as error:
        told = f"{shown(url)} cannot be read: {said(error)}"
        return fail(name, told, "start the database, or mend its address or password")
    finally:
        engine.dispose()
    return ok(name, f"{shown(url)}, {size / 1e6:.1f} MB")


def said(error: SQLAlchemyError) -> str:
    """The driver's own first line."""
    lines = str(error.__cause__ or error).strip().splitlines()
    return one_line(lines[0] if lines else type(error).__name__)


def _file(name: str, path: Path) -> Finding:
    for _ in range(_LOOKS):
        before = _state(path)
        found = _look(name, path)
        # One that nobody had open is read as one that does not change: a fault counts if it did not.
        if found.status != "fail" or _state(path) == before:
            return found
    return warn(name, f"{path} is written faster than it can be read", "look again")


def _state(path: Path) -> tuple[int, int, bool]:
    told = path.stat()
    return told.st_mtime_ns, told.st_size, path.with_name(f"{path.name}-wal").exists()


def _look(name: str, path: Path) -> Finding:
    size = path.stat().st_size / 1e6
    log = path.with_name(f"{path.name}-wal")
    logged = log.stat().st_size / 1e6 if log.exists() else 0.0
    try:
        whole, fault = _quick_check(path)
    except sqlite3.Error as error:
        return unread(name, path, error)
    if fault:
        return fail(name, f"{path} is damaged: {fault}", _RESTORE)
    told = f"{path}, {size:.1f} MB" + (f" and a log of {logged:.1f} MB" if logged else "")
    if logged > _WAL:
        return warn(name, f"{told}, which is not folded in", "end what reads it for long, such as a backup")
    return ok(name, told if whole else f"{told}; too large to be checked through")


def unread(name: str, path: Path, error: sqlite3.Error) -> Finding:
    """What it means that SQLite could not read a file; one that is in use is no fault."""
    kind = getattr(error, "sqlite_errorname", "")
    if kind.startswith("SQLITE_BUSY"):
        return warn(name, f"{path} is locked by who writes to it", "look again; if it stays so, end that one")
    if kind == "SQLITE_READONLY_ROLLBACK":
        told = f"{path}: who wrote last died within a transaction"
        return warn(name, told, "start its server again: opening it takes the half transaction back")
    return fail(name, f"{path} cannot be read: {error}", _RESTORE)


def _quick_check(path: Path) -> tuple[bool, str]:
    """Whether the check came to its end, and the first fault or nothing."""
    connection = read_only(path)
    deadline = time.monotonic() + _PATIENCE
    try:
        connection.set_progress_handler(lambda: int(time.monotonic() > deadline), 1000)
        found = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if "interrupted" in str(error):
            return False, ""
        raise
    finally:
        connection.close()
    return True, "" if found and found[0] == "ok" else one_line(str(found[0] if found else "no answer"))

"""Check that databases can be read, are intact, and do not grow too large. Writes nothing."""

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

_PATIENCE = 2.0  # s for the check of one file; writers wait that long if it has no write-ahead log
_BUSY = 5.0  # s for another process's transaction
_LOOKS = 3  # attempts for a file that is written while it is read
_WAL = 512.0  # MB; a larger write-ahead log is no longer merged into its file
_RESTORE = "stop the programs that write to it, and restore it from a backup"
_LIMITS = {
    "connect_timeout": 5,  # s
    "tcp_user_timeout": 10_000,  # ms; do not wait for a server behind a broken link
}
_STATEMENT = 5000  # ms
_HEADER = "import sys; sys.stdout.buffer.write(open(sys.argv[1], 'rb').read(20))"


def read_only(path: Path) -> sqlite3.Connection:
    """Open a SQLite file without changing it or creating files beside it."""
    # Opening a WAL-mode file that no process has open would create its log.
    mode = "immutable=1" if _is_closed(path) else "mode=ro"
    return sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, timeout=_BUSY, check_same_thread=False)


def _is_closed(path: Path) -> bool:
    """Return whether a file is in WAL mode and no process has it open."""
    return not path.with_name(f"{path.name}-wal").exists() and _header(path)[18:20] == b"\2\2"


def _header(path: Path) -> bytes:
    """Return a file's first 20 bytes, read by another process.

    A process that closes a file loses all locks that its own SQLite has on it.
    """
    argv = [sys.executable, "-I", "-S", "-c", _HEADER, str(path)]
    return subprocess.run(argv, capture_output=True, check=False).stdout


def copy(path: Path, target: Path) -> None:
    """Copy a SQLite file that may be in use. Raises `sqlite3.Error` if it is unreadable or stays locked."""
    source, copied = read_only(path), sqlite3.connect(target)
    try:
        copy_connection(source, copied, _BUSY)
    finally:
        copied.close()
        source.close()


def reading_engine(url: str) -> Engine:
    """Return a read-only engine; a Postgres that does not answer raises after a timeout."""
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
    # LOCAL, only for this transaction: a connection pooler may reuse the connection for other clients.
    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {_STATEMENT}")


def database(name: str, url: str) -> Iterator[Finding]:
    """Check one database.

    Args:
        name: of the finding.
        url: SQLAlchemy URL.
    """
    path = sqlite_file(url)
    if path is None:
        yield _server(name, url)
    elif path.exists():
        yield _file(name, path)
    else:
        yield ok(name, f"{path} is not there yet: made at first use")


def sqlite_file(url: str) -> Path | None:
    """Return the file of a SQLite URL; None for a server's URL."""
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
        detail = f"{shown(url)} cannot be read: {first_line(error)}"
        return fail(name, detail, "start the database, or correct its address or password")
    finally:
        engine.dispose()
    return ok(name, f"{shown(url)}, {size / 1e6:.1f} MB")


def first_line(error: SQLAlchemyError) -> str:
    """Return the first line of the driver's error."""
    lines = str(error.__cause__ or error).strip().splitlines()
    return one_line(lines[0] if lines else type(error).__name__)


def _file(name: str, path: Path) -> Finding:
    for _ in range(_LOOKS):
        before = _state(path)
        finding = _check_file(name, path)
        # A closed file is opened as immutable: a fault only counts if the file did not change meanwhile.
        if finding.status != "fail" or _state(path) == before:
            return finding
    return warn(name, f"{path} is written faster than it can be read", "check again")


def _state(path: Path) -> tuple[int, int, bool]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, path.with_name(f"{path.name}-wal").exists()


def _check_file(name: str, path: Path) -> Finding:
    size = path.stat().st_size / 1e6
    log = path.with_name(f"{path.name}-wal")
    logged = log.stat().st_size / 1e6 if log.exists() else 0.0
    try:
        complete, fault = _quick_check(path)
    except sqlite3.Error as error:
        return unread(name, path, error)
    if fault:
        return fail(name, f"{path} is damaged: {fault}", _RESTORE)
    detail = f"{path}, {size:.1f} MB" + (f" and a log of {logged:.1f} MB" if logged else "")
    if logged > _WAL:
        return warn(name, f"{detail}, which is not merged", "end long readers of it, such as a backup")
    return ok(name, detail if complete else f"{detail}; too large for a complete check")


def unread(name: str, path: Path, error: sqlite3.Error) -> Finding:
    """Return the finding for a file that SQLite could not read; a file in use is no fault."""
    kind = getattr(error, "sqlite_errorname", "")
    if kind.startswith("SQLITE_BUSY"):
        return warn(name, f"{path} is locked by a writer", "check again; if it stays so, end that process")
    if kind == "SQLITE_READONLY_ROLLBACK":
        detail = f"{path}: the last writer died in a transaction"
        return warn(name, detail, "start its server again: opening the file rolls the transaction back")
    return fail(name, f"{path} cannot be read: {error}", _RESTORE)


def _quick_check(path: Path) -> tuple[bool, str]:
    """Return whether the check was completed, and the first fault or ""."""
    connection = read_only(path)
    deadline = time.monotonic() + _PATIENCE
    try:
        connection.set_progress_handler(lambda: int(time.monotonic() > deadline), 1000)
        row = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if "interrupted" in str(error):
            return False, ""
        raise
    finally:
        connection.close()
    return True, "" if row and row[0] == "ok" else one_line(str(row[0] if row else "no answer"))

"""Databases: whether they can be read, are whole, and do not grow out of hand. Nothing is written."""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from fedllm.errors import FedllmError
from fedllm.stack.checks.finding import Finding, fail, ok, warn
from fedllm.text import one_line

_PATIENCE = 5.0  # s for the check of one file; a larger one is checked in part
_WAL = 512.0  # MB of a write-ahead log that nobody folds in any more
_RESTORE = "stop who writes to it, and restore it from a backup"


class UnreadableError(FedllmError):
    """A database that cannot be read."""


def read_only(path: Path) -> sqlite3.Connection:
    """A SQLite file, opened so that neither it nor a file beside it changes."""
    # Without a log beside it nobody has it open; only a file that cannot change is opened without one.
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    return sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, timeout=5, check_same_thread=False)


def reading_engine(url: str) -> Engine:
    """An engine that reads a database and cannot write to it."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        path = Path(parsed.database or "")
        return create_engine("sqlite://", creator=lambda: read_only(path))
    engine = create_engine(with_driver(url))
    return engine.execution_options(postgresql_readonly=True) if engine.name == "postgresql" else engine


def with_driver(url: str) -> str:
    """A Postgres' address with the driver that is asked here, whichever its server uses."""
    for known in ("postgres://", "postgresql://", "postgresql+asyncpg://"):
        if url.startswith(known):
            return url.replace(known, "postgresql+psycopg://", 1)
    return url


def database(name: str, url: str) -> Iterator[Finding]:
    """One database.

    Args:
        name: of the finding.
        url: as SQLAlchemy takes it.
    """
    parsed = make_url(with_driver(url))
    if parsed.get_backend_name() != "sqlite":
        yield _server(name, url)
        return
    path = Path(parsed.database or "")
    if path.exists():
        yield _file(name, path)
    else:
        yield ok(name, f"{path} is not there yet: made at first use")


def _server(name: str, url: str) -> Finding:
    url = with_driver(url)
    shown = make_url(url).render_as_string(hide_password=True)
    engine = reading_engine(url)
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
            size = 0
            if engine.name == "postgresql":
                size = connection.scalar(text("SELECT pg_database_size(current_database())")) or 0
    except SQLAlchemyError as error:
        said = one_line(str(error.__cause__ or error))
        return fail(name, f"{shown} does not answer: {said}", "start the database, or mend its address")
    finally:
        engine.dispose()
    return ok(name, f"{shown}, {size / 1e6:.1f} MB")


def _file(name: str, path: Path) -> Finding:
    size = path.stat().st_size / 1e6
    log = path.with_name(f"{path.name}-wal")
    logged = log.stat().st_size / 1e6 if log.exists() else 0.0
    try:
        whole, said = _quick_check(path)
    except sqlite3.Error as error:
        return fail(name, f"{path} cannot be read: {error}", _RESTORE)
    if said:
        return fail(name, f"{path} is damaged: {said}", _RESTORE)
    told = f"{path}, {size:.1f} MB" + (f" and a log of {logged:.1f} MB" if logged else "")
    if logged > _WAL:
        return warn(name, f"{told}, which is not folded in", "end what reads it for long, such as a backup")
    return ok(name, told if whole else f"{told}; too large to be checked through")


def _quick_check(path: Path) -> tuple[bool, str]:
    """Whether the check came to its end, and the first fault or nothing."""
    deadline = time.monotonic() + _PATIENCE
    connection = read_only(path)
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

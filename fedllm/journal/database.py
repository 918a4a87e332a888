"""Open the journal's database: SQLite with the settings it needs, or Postgres with retries on a restart."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, func, select, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.orm import Session

from fedllm.errors import ConfigError, JournalError
from fedllm.postgres_address import is_postgres, with_driver

PATIENCE = 20.0  # s to wait for a Postgres that restarts; less than the lease's TTL

_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_TABLES = 0x6665646C  # key of the advisory lock that guards the creation of tables
# Parts of libpq's errors for a server that may soon be back; a wrong password is not one of them.
_PASSING = ("refused", "starting up", "shutting down", "recovery", "closed the connection", "timeout expired")
_CUT_OFF = {
    "connect_timeout": 5,  # s
    "keepalives_idle": 10,  # s of silence before the server is probed
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,  # ms; a broken connection must be noticed before the lease expires
}


def open_database(url: str) -> Engine:
    """Open the journal's database.

    Raises:
        ConfigError: the address is invalid, or the database's driver is not installed.
    """
    try:
        if is_postgres(url):
            return _open_postgres(with_driver(url))
        engine = create_engine(url)
    except ModuleNotFoundError:
        raise ConfigError("the journal's database needs a driver: pip install 'fedllm[postgres]'") from None
    except (ArgumentError, ConfigError, NoSuchModuleError, ValueError):  # not quoted: it has a password
        raise ConfigError(
            "FEDLLM_JOURNAL_URL: write postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
        ) from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _pragmas)
        event.listen(engine, "begin", _begin)
    return engine


def _open_postgres(url: str) -> Engine:
    # Set READ COMMITTED, whatever the server's default is: it never fails a transaction for serialisation.
    # Rows that must not change meanwhile are locked with FOR UPDATE.
    engine = create_engine(
        url, pool_pre_ping=True, isolation_level="READ COMMITTED", connect_args=dict(_CUT_OFF)
    )
    event.listen(engine, "do_connect", _connect)
    event.listen(engine, "handle_error", _raise_journal_error)
    return engine


@contextmanager
def alone(engine: Engine) -> Iterator[None]:
    """Let one process at a time create tables: Postgres fails if two create the same one."""
    if engine.dialect.name != "postgresql":
        yield
        return
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _TABLES})
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _TABLES})


def _connect(dialect: Any, _record: object, cargs: Any, cparams: Any) -> Any:  # noqa: ANN401 - a DBAPI has no types
    """Connect, with retries while the server restarts."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return dialect.connect(*cargs, **cparams)
        except dialect.dbapi.OperationalError as error:
            if time.monotonic() > until or not any(words in str(error) for words in _PASSING):
                raise
        time.sleep(0.2)


def _raise_journal_error(context: ExceptionContext) -> None:
    """Raise `JournalError` if the database is unreachable or lost the connection."""
    if context.is_pre_ping or context.dialect.dbapi is None:
        return  # the pool reconnects
    kinds = (context.dialect.dbapi.OperationalError, context.dialect.dbapi.InterfaceError)
    if isinstance(context.original_exception, kinds):
        lines = str(context.original_exception).strip().splitlines() or ["it broke off"]
        raise JournalError(
            f"the journal's database: {lines[0]}; once it answers, go on with --resume"
        ) from context.original_exception


def _pragmas(connection: Any, _record: object) -> None:  # noqa: ANN401 - a DBAPI connection has no type
    connection.isolation_level = None  # `_begin` begins transactions, not the first write
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # an outcome that was reported must survive a power cut
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.execute("PRAGMA secure_delete=ON")  # overwrite a round's key when it is deleted
    cursor.close()


def _begin(connection: Connection) -> None:
    # A transaction that reads before it writes must hold the write lock from its start, or SQLite
    # refuses the write if another one came in between.
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def database_clock(session: Session) -> float:
    """Return the time by the database's clock, which all users of a journal share; s since 1970."""
    if session.get_bind().dialect.name == "sqlite":
        return time.time()  # the file is on this machine
    return float(session.scalar(select(func.extract("epoch", func.clock_timestamp()))) or 0.0)


def copy_connection(source: sqlite3.Connection, target: sqlite3.Connection, seconds: float) -> None:
    """Copy a SQLite database that may be in use, with SQLite's online backup.

    Raises:
        sqlite3.Error: it cannot be copied, or stays locked for `seconds` (SQLITE_BUSY). Without this limit,
            sqlite3 retries forever.
    """
    deadline = time.monotonic() + seconds

    def give_up(status: int, _remaining: int, _total: int) -> None:
        if status in _LOCKED and time.monotonic() > deadline:
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorname = "SQLITE_BUSY"
            raise error

    source.backup(target, progress=give_up)

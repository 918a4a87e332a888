"""The journal's database: SQLite as it has to be opened, or a Postgres that may restart in the middle."""

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

PATIENCE = 20.0  # s that a Postgres which restarts is waited for; less than the lease's TTL

_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_TABLES = 0x6665646C  # of the advisory lock under which tables are made
# What libpq says of a server that may be back in a moment; a wrong password is not among it.
_PASSING = ("refused", "starting up", "shutting down", "recovery", "closed the connection", "timeout expired")
_CUT_OFF = {
    "connect_timeout": 5,  # s
    "keepalives_idle": 10,  # s of silence until the server is asked whether it is there
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,  # ms; a cut link must be noticed before the lease runs out
}


def open_database(url: str) -> Engine:
    """Open the journal's database.

    Raises:
        ConfigError: the address is none, or names a database without a driver here.
    """
    try:
        if is_postgres(url):
            return _open_postgres(with_driver(url))
        engine = create_engine(url)
    except ModuleNotFoundError:
        raise ConfigError("the journal's database needs a driver: pip install 'fedllm[postgres]'") from None
    except (ArgumentError, ConfigError, NoSuchModuleError, ValueError):  # do not quote it: it has a password
        raise ConfigError(
            "FEDLLM_JOURNAL_URL: write postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
        ) from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _pragmas)
        event.listen(engine, "begin", _begin)
    return engine


def _open_postgres(url: str) -> Engine:
    # Rows that matter are locked (FOR UPDATE), so READ COMMITTED never asks for a transaction to be repeated,
    # whatever the server's default is.
    engine = create_engine(
        url, pool_pre_ping=True, isolation_level="READ COMMITTED", connect_args=dict(_CUT_OFF)
    )
    event.listen(engine, "do_connect", _connect)
    event.listen(engine, "handle_error", _named)
    return engine


@contextmanager
def alone(engine: Engine) -> Iterator[None]:
    """Let one process at a time make tables: Postgres refuses two that make the same one."""
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
    """Connect; a server that restarts is waited for."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return dialect.connect(*cargs, **cparams)
        except dialect.dbapi.OperationalError as error:
            if time.monotonic() > until or not any(words in str(error) for words in _PASSING):
                raise
        time.sleep(0.2)


def _named(context: ExceptionContext) -> None:
    """Give a database that is away, or broke off, its fedllm name."""
    if context.is_pre_ping or context.dialect.dbapi is None:
        return  # the pool connects anew
    kinds = (context.dialect.dbapi.OperationalError, context.dialect.dbapi.InterfaceError)
    if isinstance(context.original_exception, kinds):
        said = str(context.original_exception).strip().splitlines() or ["it broke off"]
        raise JournalError(
            f"the journal's database: {said[0]}; once it answers, go on with --resume"
        ) from context.original_exception


def _pragmas(connection: Any, _record: object) -> None:  # noqa: ANN401 - a DBAPI connection has no type
    connection.isolation_level = None  # transactions begin where `_begin` says, not at the first write
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # an outcome that was told must survive a power cut
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.execute("PRAGMA secure_delete=ON")  # a round's key is overwritten when it is deleted
    cursor.close()


def _begin(connection: Connection) -> None:
    # A transaction that reads before it writes must hold the write lock from its start, or SQLite
    # refuses the write when another one came between.
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def database_clock(session: Session) -> float:
    """S since 1970 by a clock that all who use a journal share: its database's."""
    if session.get_bind().dialect.name == "sqlite":
        return time.time()  # a file of this machine's
    return float(session.scalar(select(func.extract("epoch", func.clock_timestamp()))) or 0.0)


def copy_connection(source: sqlite3.Connection, target: sqlite3.Connection, seconds: float) -> None:
    """Copy a SQLite database that may be in use, by SQLite's online backup.

    Raises:
        sqlite3.Error: it cannot be copied, or stays locked for so long (SQLITE_BUSY): by itself, sqlite3
            begins again without an end.
    """
    deadline = time.monotonic() + seconds

    def heard(status: int, _remaining: int, _total: int) -> None:
        if status in _LOCKED and time.monotonic() > deadline:
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorname = "SQLITE_BUSY"
            raise error

    source.backup(target, progress=heard)

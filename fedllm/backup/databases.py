"""Consistent copies of databases: SQLite by its online backup, Postgres by pg_dump."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm.disk import room
from fedllm.errors import BackupError
from fedllm.journal.database import copy_connection
from fedllm.postgres_address import is_postgres, libpq, shown, with_driver

if TYPE_CHECKING:
    from sqlalchemy import Connection

_MAGIC = b"SQLite format 3\0"
_BUSY = 60.0  # s for another process' transaction
_ANSWER = 10  # s for a Postgres to take a connection
# pg_restore runs the SQL of a dump: as one of these users it could run programs on the server. Before
# Postgres 16 a user with CREATEROLE could join the other roles.
_PRIVILEGED_USER = """
select current_user where exists (
  select from pg_roles where pg_has_role(current_user, oid, 'member') and (
    rolsuper or rolcreaterole or
    rolname in ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files')))
"""


def is_sqlite(path: Path) -> bool:
    """Return whether a file is a SQLite database."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database that may be in use, as one transaction sees it, including its write-ahead log.

    Raises:
        BackupError: the database is damaged or stays locked.
        DiskFullError: the disk has no room for the copy.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with (
            room(target.parent, "back up again"),
            closing(sqlite3.connect(f"{source.as_uri()}?mode=rw", uri=True, timeout=_BUSY)) as live,
            closing(sqlite3.connect(target)) as copy,
        ):
            copy_connection(live, copy, _BUSY)
            # The copy is one file, without a write-ahead log.
            copy.execute("PRAGMA journal_mode=DELETE")
            check = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY"):
            detail = f"{source} stays locked by another process: end that one, and back up again"
            raise BackupError(detail) from None
        raise BackupError(f"{source} cannot be copied: {error}") from None
    if check != "ok":
        raise BackupError(f"{source} is torn: {str(check).splitlines()[-1]}")


@contextmanager
def snapshot(url: str) -> Iterator[tuple["Connection", str | None]]:
    """Yield a read transaction and the snapshot name with which pg_dump sees the same state (None: SQLite).

    Raises:
        BackupError: the database does not answer.
    """
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    postgres = is_postgres(url)
    try:
        engine = create_engine(with_driver(url), **(_read_options() if postgres else {}))
        try:
            with engine.connect() as connection:
                name = connection.scalar(text("SELECT pg_export_snapshot()")) if postgres else None
                yield connection, name
        finally:
            engine.dispose()
    except (SQLAlchemyError, ImportError) as error:
        raise BackupError(f"{shown(url)} cannot be read: {str(error).splitlines()[0]}") from None


def _read_options() -> dict[str, Any]:
    return {"isolation_level": "REPEATABLE READ", "connect_args": {"connect_timeout": _ANSWER}}


def dump_postgres(url: str, target: Path, snapshot_name: str | None = None) -> None:
    """Dump one consistent state of a Postgres database in pg_dump's custom format.

    Args:
        url: SQLAlchemy URL; its password never appears on a command line.
        target: the file to write.
        snapshot_name: the state to dump, exported by a transaction that is still open.

    Raises:
        BackupError: pg_dump is not installed or failed.
    """
    address, env = libpq(url)
    argv = [_program("pg_dump"), "--format=custom", "--no-owner", "--no-privileges", "--no-password"]
    argv += ["--file", str(target)]
    argv += [f"--snapshot={snapshot_name}"] if snapshot_name else []
    target.touch(mode=0o600)
    _run([*argv, "--dbname", address], env, f"{shown(url)} cannot be dumped")


def restore_postgres(url: str, dump: Path) -> None:
    """Restore a dump into an empty database in one transaction.

    Raises:
        BackupError: the database has tables, its user has more rights than an ordinary one, or pg_restore is
            not installed or failed.
    """
    refuse_unfit(url)
    address, env = libpq(url)
    argv = [_program("pg_restore"), "--no-owner", "--no-privileges", "--no-password"]
    argv += ["--exit-on-error", "--single-transaction"]
    _run([*argv, "--dbname", address, str(dump)], env, f"{shown(url)} cannot be restored")


def refuse_unfit(url: str) -> None:
    """Raise `BackupError` unless a Postgres database answers, has no tables, and has an ordinary user."""
    from sqlalchemy import inspect, text

    with snapshot(url) as (connection, _):
        user = connection.scalar(text(_PRIVILEGED_USER))
        tables = inspect(connection).get_table_names()
    if user is not None:
        raise BackupError(
            f"{shown(url)}: {user} is a superuser, or may create roles or use the server's files and "
            "programs, and a dump would run as code with these rights: use an ordinary user that owns the "
            "database"
        )
    if tables:
        raise BackupError(
            f"{shown(url)} holds tables already ({tables[0]}, …): a dump goes into an empty database"
        )


def _program(name: str) -> str:
    """Return the path of the newest installed `name`, which handles older servers as well."""
    releases = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=_release)  # Debian's layout
    program = str(releases[-1]) if releases else shutil.which(name)
    if program is None:
        raise BackupError(f"{name} is not installed: it comes with the package postgresql-client")
    return program


def _release(path: Path) -> int:
    name = path.parent.parent.name
    return int(name) if name.isdigit() else 0


def _run(argv: list[str], env: dict[str, str], failure: str) -> None:
    done = subprocess.run(
        argv, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line] or [f"exit {done.returncode}"]
        raise BackupError(f"{failure}: {lines[0]}")

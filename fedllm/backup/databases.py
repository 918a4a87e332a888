"""Databases as they are at one moment: SQLite by its online backup, Postgres by pg_dump."""

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
# pg_restore runs whatever a dump says: as such a user it could run programs on the server. Who may make roles
# could, before Postgres 16, join the others.
_TOO_MIGHTY = """
select current_user where exists (
  select from pg_roles where pg_has_role(current_user, oid, 'member') and (
    rolsuper or rolcreaterole or
    rolname in ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files')))
"""


def is_sqlite(path: Path) -> bool:
    """Whether a file is a SQLite database."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database that may be in use: one transaction's view of it, with its log's content.

    Raises:
        BackupError: it is torn, or stays locked.
        DiskFullError: no room for the copy.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with (
            room(target.parent, "back up again"),
            closing(sqlite3.connect(f"{source.as_uri()}?mode=rw", uri=True, timeout=_BUSY)) as live,
            closing(sqlite3.connect(target)) as copy,
        ):
            copy_connection(live, copy, _BUSY)
            # One file, with no log beside it.
            copy.execute("PRAGMA journal_mode=DELETE")
            said = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY"):
            told = f"{source} stays locked by another process: end that one, and back up again"
            raise BackupError(told) from None
        raise BackupError(f"{source} cannot be copied: {error}") from None
    if said != "ok":
        raise BackupError(f"{source} is torn: {str(said).splitlines()[-1]}")


@contextmanager
def snapshot(url: str) -> Iterator[tuple["Connection", str | None]]:
    """A read transaction on a database, and the name by which pg_dump sees the very same state.

    Raises:
        BackupError: the database does not answer.
    """
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    postgres = is_postgres(url)
    try:
        engine = create_engine(with_driver(url), **(_reading() if postgres else {}))
        try:
            with engine.connect() as connection:
                name = connection.scalar(text("SELECT pg_export_snapshot()")) if postgres else None
                yield connection, name
        finally:
            engine.dispose()
    except (SQLAlchemyError, ImportError) as error:
        raise BackupError(f"{shown(url)} cannot be read: {str(error).splitlines()[0]}") from None


def _reading() -> dict[str, Any]:
    return {"isolation_level": "REPEATABLE READ", "connect_args": {"connect_timeout": _ANSWER}}


def dump_postgres(url: str, target: Path, snapshot_name: str | None = None) -> None:
    """Dump a Postgres database in pg_dump's custom format; its state is that of one moment.

    Args:
        url: SQLAlchemy's; its password is never on a command line.
        target: the file to write.
        snapshot_name: the state to dump, of a transaction that is still open.

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
    """Bring a dump back into an empty database, whole or not at all.

    Raises:
        BackupError: the database holds tables already, its user may do more than use databases, or pg_restore
            is not installed or failed.
    """
    refuse_unfit(url)
    address, env = libpq(url)
    argv = [_program("pg_restore"), "--no-owner", "--no-privileges", "--no-password"]
    argv += ["--exit-on-error", "--single-transaction"]
    _run([*argv, "--dbname", address, str(dump)], env, f"{shown(url)} cannot be restored")


def refuse_unfit(url: str) -> None:
    """Raise `BackupError` unless a Postgres database answers, holds no table, and its user is a plain one."""
    from sqlalchemy import inspect, text

    with snapshot(url) as (connection, _):
        user = connection.scalar(text(_TOO_MIGHTY))
        tables = inspect(connection).get_table_names()
    if user is not None:
        raise BackupError(
            f"{shown(url)}: {user} is a superuser, or may make roles or use the server's files and programs, "
            "and a dump is code that would run so: name a plain user, and make it the database's owner"
        )
    if tables:
        raise BackupError(
            f"{shown(url)} holds tables already ({tables[0]}, …): a dump goes into an empty database"
        )


def _program(name: str) -> str:
    """Debian keeps each release's programs in a folder of its own; the newest dumps older servers as well."""
    releases = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=_release)
    found = str(releases[-1]) if releases else shutil.which(name)
    if found is None:
        raise BackupError(f"{name} is not installed: it comes with the package postgresql-client")
    return found


def _release(path: Path) -> int:
    name = path.parent.parent.name
    return int(name) if name.isdigit() else 0


def _run(argv: list[str], env: dict[str, str], failure: str) -> None:
    done = subprocess.run(
        argv, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if line] or [f"exit {done.returncode}"]
        raise BackupError(f"{failure}: {said[0]}")

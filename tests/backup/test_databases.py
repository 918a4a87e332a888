"""Copies of SQLite databases that are in use, locked, torn or too large for the disk."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fedllm.backup import databases
from fedllm.backup.databases import copy_sqlite
from fedllm.errors import BackupError


@pytest.fixture
def live(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "live.db", isolation_level=None)) as db:
        yield db


def test_a_live_database_is_copied_with_its_log_and_without_what_is_not_committed(
    live: sqlite3.Connection, tmp_path: Path
) -> None:
    target = tmp_path / "copy.db"
    live.execute("pragma journal_mode=wal")
    live.execute("pragma wal_autocheckpoint=0")
    live.execute("create table t (n)")
    live.execute("insert into t values (1)")
    live.execute("begin immediate")
    live.execute("insert into t values (2)")
    copy_sqlite(tmp_path / "live.db", target)
    live.execute("commit")
    with closing(sqlite3.connect(target)) as copy:
        assert copy.execute("select n from t").fetchall() == [(1,)]
    assert [path.name for path in tmp_path.glob("copy.db*")] == ["copy.db"]
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_database_without_a_log_is_copied_as_well_while_another_one_writes(
    live: sqlite3.Connection, tmp_path: Path
) -> None:
    """MLflow's and Prefect's may be so."""
    live.execute("pragma journal_mode=delete")
    live.execute("create table t (n)")
    live.execute("insert into t values (1)")
    live.execute("begin immediate")  # readers may still read
    live.execute("insert into t values (2)")
    copy_sqlite(tmp_path / "live.db", tmp_path / "copy.db")
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("select n from t").fetchall() == [(1,)]


def test_a_database_that_stays_locked_is_given_up_with_one_line(
    live: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live.execute("create table t (n)")
    live.execute("begin exclusive")
    monkeypatch.setattr(databases, "_BUSY", 0.5)
    begun = time.monotonic()
    with pytest.raises(BackupError, match=r"live\.db stays locked"):
        copy_sqlite(tmp_path / "live.db", tmp_path / "copy.db")
    assert time.monotonic() - begun < 20


def test_a_torn_database_is_not_taken_for_a_backup(live: sqlite3.Connection, tmp_path: Path) -> None:
    source = tmp_path / "live.db"
    live.execute("create table t (n)")
    live.execute("begin")
    live.executemany("insert into t values (?)", [("x" * 500,)] * 200)
    live.execute("commit")
    live.close()
    damaged = bytearray(source.read_bytes())
    damaged[4096 * 3 : 4096 * 5] = b"\xff" * 8192
    source.write_bytes(bytes(damaged))
    with pytest.raises(BackupError, match=r"live\.db"):
        copy_sqlite(source, tmp_path / "copy.db")

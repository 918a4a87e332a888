import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fedllm.backup.databases import copy_sqlite
from fedllm.backup.inventory import Turn, files
from fedllm.errors import BackupError


def make(home: Path, *names: str) -> None:
    for name in names:
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".db":
            with closing(sqlite3.connect(path)) as db:
                db.execute("create table t (n)")
                db.commit()
        else:
            path.write_text(name)


EVERYTHING = (
    "coordinator/test/journal.db",
    "coordinator/test/journal.db-wal",
    "coordinator/test/keys/sign.key",
    "coordinator/test/keys-until-20260101-000000/sign.key",
    "coordinator/test/runs/run-1/a.model",
    "coordinator/test/runs/run-1/a.part",
    "simulated/test/mill/memory.db",
    "simulated/test/mill/ledger.db",
    "simulated/test/mill/agent.log",
    "simulated/test/mill/agent.lock",
    "simulated/test/mill/keys/age.key",
    "simulated/test/mill/site.yaml",
    "simulated/test/mill/work/run-1-1.sealed",
    "stack/minio/root.json",
    "stack/minio/meta.db",
    "stack/minio/blocks/chunks/0/0/1",
    "stack/mlflow.db",
    "stack/prefect/prefect.db",
    "stack/prefect/memo_store.toml",
    "stack/stack.json",
    "stack/passwords.json",
    "stack/databases.json",
    "stack/supervisord.conf",
    "stack/client.env",
    "stack/logs/mlflow.log",
    "ca/ca.crt",
    "ca/ca.key",
    "cache/data/texts.jsonl",
    "later/notes.json",
)


def test_files_come_in_the_order_in_which_they_must_be_read(tmp_path: Path) -> None:
    make(tmp_path, *EVERYTHING)
    (tmp_path / "coordinator/test/link").symlink_to("/etc/passwd")
    found = files(tmp_path, keys=True)
    assert [turn for turn, _ in found] == sorted(turn for turn, _ in found)
    by_turn = {turn: [name for t, name in found if t == turn] for turn in Turn}
    assert by_turn[Turn.SITE_MEMORY] == ["simulated/test/mill/memory.db"]
    assert by_turn[Turn.JOURNAL] == ["coordinator/test/journal.db"]
    assert by_turn[Turn.LEDGER] == ["simulated/test/mill/ledger.db"]
    assert by_turn[Turn.MLFLOW] == ["stack/mlflow.db"]
    assert by_turn[Turn.PREFECT] == ["stack/prefect/prefect.db"]
    assert "simulated/test/mill/work/run-1-1.sealed" in by_turn[Turn.SITE_FILE]
    assert "coordinator/test/runs/run-1/a.model" in by_turn[Turn.COORDINATOR_FILE]
    left_out = set(EVERYTHING) - {name for _, name in found}
    assert left_out == {
        "coordinator/test/journal.db-wal",
        "coordinator/test/runs/run-1/a.part",
        "simulated/test/mill/agent.log",
        "simulated/test/mill/agent.lock",
        "stack/minio/meta.db",
        "stack/minio/blocks/chunks/0/0/1",
        "stack/prefect/memo_store.toml",
        "stack/supervisord.conf",
        "stack/client.env",
        "stack/logs/mlflow.log",
        "cache/data/texts.jsonl",
    }


def test_without_keys_nothing_secret_is_named(tmp_path: Path) -> None:
    make(tmp_path, *EVERYTHING)
    kept = {name for _, name in files(tmp_path, keys=True)} - {
        name for _, name in files(tmp_path, keys=False)
    }
    assert kept == {
        "coordinator/test/keys/sign.key",
        "coordinator/test/keys-until-20260101-000000/sign.key",
        "simulated/test/mill/keys/age.key",
        "stack/minio/root.json",
        "stack/passwords.json",
        "stack/databases.json",
        "ca/ca.key",
    }


def test_a_live_database_is_copied_with_its_log_and_without_what_is_not_committed(tmp_path: Path) -> None:
    source, target = tmp_path / "live.db", tmp_path / "copy.db"
    with closing(sqlite3.connect(source, isolation_level=None)) as db:
        db.execute("pragma journal_mode=wal")
        db.execute("pragma wal_autocheckpoint=0")
        db.execute("create table t (n)")
        db.execute("insert into t values (1)")
        db.execute("begin immediate")
        db.execute("insert into t values (2)")
        copy_sqlite(source, target)
        db.execute("commit")
    with closing(sqlite3.connect(target)) as copy:
        assert copy.execute("select n from t").fetchall() == [(1,)]
    assert [path.name for path in tmp_path.glob("copy.db*")] == ["copy.db"]
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_torn_database_is_not_taken_for_a_backup(tmp_path: Path) -> None:
    source = tmp_path / "torn.db"
    make(tmp_path, "torn.db")
    with closing(sqlite3.connect(source)) as db:
        db.executemany("insert into t values (?)", [("x" * 500,)] * 200)
        db.commit()
    damaged = bytearray(source.read_bytes())
    damaged[4096 * 3 : 4096 * 5] = b"\xff" * 8192
    source.write_bytes(bytes(damaged))
    with pytest.raises(BackupError, match=r"torn\.db"):
        copy_sqlite(source, tmp_path / "copy.db")

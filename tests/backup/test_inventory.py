import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fedllm.backup.inventory import ReadOrder, files, site_homes
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
    "simulated/test/mill/work/run-1-1.update",
    "simulated/test/mill/work/run-1-1.model",
    "sites/north/memory.db",
    "sites/north/site.yaml",
    "sites/north/books.db",
    "hospital/site.yaml",
    "hospital/ledger.db",
    "hospital/forgotten.db",
    "hospital/forgotten.db-wal",
    "hospital/forgotten.lock",
    "hospital/forgotten.jsonl",
    "hospital/forgotten.key",
    "simulated/test/mill/pseudonym.key",
    "coordinator/test/runs/run-1/a.update",
    ".backup-1/home/coordinator/test/keys/sign.key",
    "restoring",
    "stack/restored",
    "stack/pages/index.html",
    "stack/tmp/fedllm-1/ledger.db",
    "stack/minio/root.json",
    "stack/minio/meta.db",
    "stack/minio/blocks/chunks/0/0/1",
    "stack/mlflow.db",
    "stack/prefect/prefect.db",
    "stack/prefect/memo_store.toml",
    "stack/stack.json",
    "stack/passwords.json",
    "stack/store-users.json",
    "stack/mlflow-auth.db",
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
    found = files(tmp_path, keys=True)
    assert [turn for turn, _ in found] == sorted(turn for turn, _ in found)
    by_turn = {turn: [name for t, name in found if t == turn] for turn in ReadOrder}
    assert by_turn[ReadOrder.SITE_MEMORY] == ["simulated/test/mill/memory.db", "sites/north/memory.db"]
    assert by_turn[ReadOrder.JOURNAL] == ["coordinator/test/journal.db"]
    ledgers = ["hospital/ledger.db", "simulated/test/mill/ledger.db", "sites/north/books.db"]
    assert by_turn[ReadOrder.LEDGER] == ledgers
    site_files = {"hospital/site.yaml", "hospital/forgotten.db", "hospital/forgotten.key"}
    assert site_files | {"hospital/forgotten.jsonl"} <= set(by_turn[ReadOrder.SITE_FILE])
    assert by_turn[ReadOrder.MLFLOW] == ["stack/mlflow-auth.db", "stack/mlflow.db"]
    assert by_turn[ReadOrder.PREFECT] == ["stack/prefect/prefect.db"]
    assert "simulated/test/mill/work/run-1-1.sealed" in by_turn[ReadOrder.SITE_FILE]
    assert "coordinator/test/runs/run-1/a.model" in by_turn[ReadOrder.COORDINATOR_FILE]
    left_out = set(EVERYTHING) - {name for _, name in found}
    assert left_out == {
        "coordinator/test/journal.db-wal",
        "coordinator/test/runs/run-1/a.part",
        "simulated/test/mill/agent.log",
        "simulated/test/mill/agent.lock",
        "hospital/forgotten.db-wal",
        "hospital/forgotten.lock",
        "stack/minio/meta.db",
        "stack/minio/blocks/chunks/0/0/1",
        "stack/prefect/memo_store.toml",
        "stack/supervisord.conf",
        "stack/client.env",
        "stack/logs/mlflow.log",
        "cache/data/texts.jsonl",
        "simulated/test/mill/work/run-1-1.update",
        "simulated/test/mill/work/run-1-1.model",
        ".backup-1/home/coordinator/test/keys/sign.key",
        "restoring",
        "stack/restored",
        "stack/pages/index.html",
        "stack/tmp/fedllm-1/ledger.db",
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
        "simulated/test/mill/pseudonym.key",
        "hospital/forgotten.key",
        "stack/minio/root.json",
        "stack/passwords.json",
        "stack/store-users.json",
        "stack/mlflow-auth.db",
        "stack/databases.json",
        "ca/ca.key",
        "coordinator/test/runs/run-1/a.update",
    }


def test_a_site_is_any_folder_with_a_site_file_or_a_memory(tmp_path: Path) -> None:
    make(tmp_path, *EVERYTHING)
    found = [path.relative_to(tmp_path).as_posix() for path in site_homes(tmp_path)]
    assert found == ["hospital", "simulated/test/mill", "sites/north"]


@pytest.mark.parametrize(
    "name", ["coordinator/other", "coordinator/test/journal-2.db", "sites/link", "stack/x"]
)
def test_a_link_is_refused_and_not_left_out_in_silence(tmp_path: Path, name: str) -> None:
    make(tmp_path, *EVERYTHING)
    make(tmp_path / "elsewhere", "f")
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BackupError, match=f"{name} is a link"):
        files(tmp_path, keys=True)


def test_a_link_to_what_is_left_out_anyway_is_none_of_a_backups_business(tmp_path: Path) -> None:
    make(tmp_path, "coordinator/test/journal.db")
    for name in ("cache", "coordinator/test/agent.log"):
        (tmp_path / name).symlink_to("/")
    assert files(tmp_path, keys=True) == [(ReadOrder.JOURNAL, "coordinator/test/journal.db")]

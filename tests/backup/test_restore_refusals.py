"""What a restore refuses before it writes anything, and what it leaves as it is."""

import json
from pathlib import Path

import pytest

from fedllm.backup.create import create_backup
from fedllm.backup.restore import restore
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.errors import BackupError, ConfigError
from fedllm.stack.databases import VARIABLES, databases
from tests.backup.lost import lose_everything, restore_backup

PROD = "postgresql+psycopg://fedllm:prod-secret@db.example/mlflow"


def test_a_home_or_a_store_that_is_not_empty_is_left_as_it_is(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"is not empty \(coordinator\)"):
        restore_backup(tmp_path)
    assert (tmp_path / "home" / "coordinator" / "played" / "journal.db").exists()
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "new"))
    with pytest.raises(BackupError, match="--keep-objects"):
        restore_backup(tmp_path)
    assert not (tmp_path / "new").exists()
    (tmp_path / "new" / "cache").mkdir(parents=True)
    (tmp_path / "new" / "cache" / "model").write_text("costly")
    done = restore(archive, keep_objects=True)
    assert (done.objects, done.missing) == (0, ())
    assert (tmp_path / "new" / "cache" / "model").read_text() == "costly"
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_a_home_that_cannot_be_made_is_one_line(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_everything(tmp_path, monkeypatch)
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(BackupError, match=r"cannot restore into .*file/home: Not a directory"):
        restore(archive, keep_objects=True)


def test_a_damaged_archive_is_refused_before_anything_is_written(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = lose_everything(tmp_path, monkeypatch)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BackupError, match="is damaged"):
        restore_backup(tmp_path)
    assert not new.exists()


def test_an_archive_alone_does_not_choose_the_folder_that_objects_are_written_to(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_everything(tmp_path, monkeypatch)
    with pytest.raises(ConfigError, match=r"--store file:///"):
        restore(archive)
    assert not (tmp_path / "store").exists()


def test_objects_that_a_kept_store_lacks_are_named(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "new"))
    gone = next((tmp_path / "store").rglob("roster.json"))
    gone.unlink()
    assert restore(archive, keep_objects=True).missing == (str(gone.relative_to(tmp_path / "store")),)


@pytest.mark.parametrize("name", ["mlflow", "prefect", "journal"])
def test_an_archive_of_sqlite_files_is_not_restored_beside_a_postgres_that_the_shell_names(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert archive
    new = lose_everything(tmp_path, monkeypatch)
    variable = VARIABLES.get(name, "FEDLLM_JOURNAL_URL")
    driver = "asyncpg" if name == "prefect" else "psycopg"
    monkeypatch.setenv(variable, f"postgresql+{driver}://fedllm:secret@db.example/x")
    with pytest.raises(ConfigError, match=f"no dump of {name}: unset {variable}"):
        restore_backup(tmp_path)
    assert not new.exists()
    monkeypatch.setenv(variable, "")
    assert restore_backup(tmp_path).objects


def test_a_restored_stack_does_not_know_the_databases_of_the_one_that_was_backed_up(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "home" / "stack" / "databases.json"
    kept.parent.mkdir()
    kept.write_text(json.dumps({"prefect": None, "mlflow": PROD}))
    kept.chmod(0o600)
    monkeypatch.setenv(VARIABLES["mlflow"], "")
    archive.unlink()
    create_backup(archive)
    assert json.loads(kept.read_text())["mlflow"] == PROD  # a backup changes nothing for the next `up`
    monkeypatch.delenv(VARIABLES["mlflow"])
    lose_everything(tmp_path, monkeypatch)
    restore_backup(tmp_path)
    assert databases(StackPaths.here()).mlflow is None

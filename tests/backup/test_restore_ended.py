"""A restore that fails, is asked to end, or is killed: nothing is left, or a home that says what it is."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from fedllm.backup.create import create_backup
from fedllm.backup.manifest import StoredObject
from fedllm.backup.objects import BackupFolder
from fedllm.backup.reading import verify
from fedllm.backup.restore import restore
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.errors import BackupError, ConfigError, ExchangeError
from fedllm.journal.journal import Journal
from fedllm.stack import up
from tests.backup.lost import lose_everything, restore_backup, stored

# Restores, and says once it has begun to put objects into the store; then it goes on slowly.
SLOW = """
import sys, time
from fedllm.backup import objects
from fedllm.cli.main import main
store = objects.BackupFolder.put
def slowly(self, stored, path):
    store(self, stored, path)
    print("stored", flush=True)
    time.sleep(60)
objects.BackupFolder.put = slowly
main()
"""


def test_a_store_that_fills_up_half_way_is_empty_again_and_so_is_the_home(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert archive
    new = lose_everything(tmp_path, monkeypatch)
    store, kept = BackupFolder.put, 2

    def breaks_off(self: BackupFolder, entry: StoredObject, path: Path) -> None:
        nonlocal kept
        store(self, entry, path)
        kept -= 1
        if kept == 0:
            raise ExchangeError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(BackupFolder, "put", breaks_off)
        with pytest.raises(ExchangeError, match="is away"):
            restore_backup(tmp_path)
    assert (stored(tmp_path), list(new.iterdir())) == ([], [])
    assert restore_backup(tmp_path).objects > 2


def begun(archive: Path, home: Path, store: Path) -> subprocess.Popen[str]:
    """A restore by the command line that has just put its first object into the store."""
    command = [sys.executable, "-c", SLOW, "restore", str(archive), "--into", str(home)]
    command += ["--store", f"file://{store}"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout
    assert running.stdout.readline() == "stored\n"
    return running


@pytest.mark.servers
def test_a_restore_that_is_asked_to_end_takes_everything_back(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = lose_everything(tmp_path, monkeypatch)
    with begun(archive, new, tmp_path / "store") as running:
        running.send_signal(signal.SIGTERM)
        assert running.wait(120) == 128 + signal.SIGTERM
    assert (stored(tmp_path), list(new.iterdir())) == ([], [])


@pytest.mark.servers
def test_the_home_of_a_restore_that_was_killed_is_used_by_nobody(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = lose_everything(tmp_path, monkeypatch)
    with begun(archive, new, tmp_path / "store") as running:
        running.kill()
    with closing(sqlite3.connect(new / "coordinator" / "played" / "journal.db")) as db:
        assert db.execute("select head_counter >= 1000000 from federation").fetchall() == [
            (1,)
        ]  # before objects
    for use in (lambda: Journal("played"), up, lambda: create_backup(tmp_path / "c.tar")):
        with pytest.raises(BackupError, match="is half restored"):
            use()
    with pytest.raises(ConfigError, match="is not empty"):
        restore(archive, keep_objects=True)
    agent = [sys.executable, "-m", "fedllm", "agent", "--home", str(new / "sites" / "mill")]
    agent += ["--invitation", "mill.invitation"]
    # `restore --into` sets FEDLLM_HOME in its own process alone.
    elsewhere = os.environ | {"FEDLLM_HOME": str(tmp_path / "elsewhere")}
    done = subprocess.run(agent, capture_output=True, text=True, check=False, timeout=240, env=elsewhere)
    assert (done.returncode, f"{new} is half restored" in done.stderr) == (1, True)


def test_a_restore_that_came_to_its_end_says_so_to_the_next_up_alone(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert archive
    new = lose_everything(tmp_path, monkeypatch)
    restore_backup(tmp_path)
    assert StackPaths.here().restored.read_bytes() == b""
    assert StackPaths.here().restored.stat().st_mode & 0o777 == 0o600
    assert not (new / "restoring").exists()
    create_backup(tmp_path / "c.tar")
    assert "home/stack/restored" not in {member.name for member in verify(tmp_path / "c.tar").members}

"""What a backup refuses to take for a whole one, and what it leaves behind when it is ended."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pyrage
import pytest

from fedllm.backup import staging, stores
from fedllm.backup.create import create_backup
from fedllm.backup.manifest import Manifest
from fedllm.backup.reading import members
from fedllm.config import FederationConfig
from fedllm.coordinator.steps import JournaledRunner
from fedllm.endpoints.addresses import read_endpoints
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.endpoints.state import StackState
from fedllm.errors import BackupError, ConfigError
from fedllm.journal.journal import Journal
from fedllm.journal.lease import Lease
from fedllm.journal.runs import begin_run
from fedllm.stack.minio import MinioServer, minio_credentials
from tests.coordinator.played import PlayedSite

# Backs up, and says once the home's files are read; then it goes on slowly.
SLOW = """
import time
from fedllm.backup import create
from fedllm.cli.main import main
def slowly(*_):
    print("read", flush=True)
    time.sleep(60)
create._add_objects = slowly
main()
"""


def back_up(tmp_path: Path, config: FederationConfig) -> Manifest:
    return create_backup(tmp_path / "b.tar", configs=[config])


@pytest.fixture
def joined(config: FederationConfig, sites: dict[str, PlayedSite]) -> FederationConfig:
    """A federation whose sites have joined, and that has not trained yet."""
    assert sites
    return config


def test_a_coordinator_without_its_journal_is_no_backup(joined: FederationConfig, tmp_path: Path) -> None:
    """As where cron does not know FEDLLM_JOURNAL_URL."""
    (tmp_path / "home" / "coordinator" / "played" / "journal.db").unlink()
    with pytest.raises(BackupError, match="has no journal here: set FEDLLM_JOURNAL_URL"):
        back_up(tmp_path, joined)
    assert not list(tmp_path.glob("*b.tar*"))


def test_a_journal_that_a_backup_does_not_know_is_refused_and_the_homes_own_is_not(
    joined: FederationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLLM_JOURNAL_URL", f"sqlite:///{tmp_path / 'elsewhere.db'}")
    with pytest.raises(BackupError, match="names a database that a backup cannot read"):
        back_up(tmp_path, joined)
    own = tmp_path / "home" / "coordinator" / "played" / "journal.db"
    monkeypatch.setenv("FEDLLM_JOURNAL_URL", f"sqlite:///{own}")
    assert set(back_up(tmp_path, joined).federations) == {"played"}


def test_a_run_whose_configuration_is_older_than_this_fedllm_stops_no_backup(
    joined: FederationConfig, tmp_path: Path
) -> None:
    with closing(Journal("played")) as journal, Lease(journal, "run-1"):
        begin_run(journal, "run-1", '{"name": "played", "gone": 1}')
        begin_run(journal, "run-2", joined.model_dump_json())
    assert create_backup(tmp_path / "a.tar").federations["played"].unfinished == ("run-1", "run-2")
    with closing(Journal("played")) as journal, Lease(journal, "run-1"):
        begin_run(journal, "run-3", '{"name": "played", "gone": 1}')
    with pytest.raises(ConfigError, match="name its federation file with --config"):
        create_backup(tmp_path / "b.tar")
    assert back_up(tmp_path, joined).buckets


def test_an_opened_update_that_is_destroyed_between_two_looks_is_not_in_the_archive(
    steps: JournaledRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedllm.backup import journals
    from tests.backup.lost import finish

    folder, real, looks = steps.training.folder, journals._satisfied, []
    (folder / "early.model").write_bytes(b"there at the first look alone")

    def ends_meanwhile(*arguments: object) -> bool:
        looks.append(1)
        if len(looks) == 1:
            finish(steps)
            (folder / "early.model").unlink()
            return False
        return real(*arguments)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(journals, "_satisfied", ends_meanwhile)
    create_backup(tmp_path / "b.tar")
    names = [name for name, _ in members(tmp_path / "b.tar")]
    assert not [name for name in names if name.endswith(("early.model", ".update"))]
    assert not [name for name in names if name.endswith("/payload")]


def test_an_empty_file_in_the_place_of_a_ledger_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home" / "simulated" / "f" / "mill"
    home.mkdir(parents=True)
    (home / "ledger.db").touch()
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "home"))
    assert [member.name for member in create_backup(tmp_path / "b.tar").members] == [
        "home/simulated/f/mill/ledger.db"
    ]


def test_a_database_that_is_deleted_while_it_is_copied_is_passed_over(
    joined: FederationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = tmp_path / "home" / "books.db"
    for text in ("create table t (x)", "insert into t values (1)"):
        with closing(sqlite3.connect(books)) as db, db:
            db.execute(text)
    copy = staging.copy_sqlite

    def late(source: Path, target: Path) -> None:
        if source == books:
            source.unlink()
        copy(source, target)

    monkeypatch.setattr(staging, "copy_sqlite", late)
    names = {member.name for member in back_up(tmp_path, joined).members}
    assert "home/books.db" not in names
    assert "home/coordinator/played/journal.db" in names


def test_a_file_of_an_earlier_reading_that_is_gone_in_the_next_is_not_in_the_archive(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    staged = staging.Staged(tmp_path / "staged", tmp_path / "home", keys=True)
    for name in ("file", "book.db"):
        path = tmp_path / "home" / name
        path.write_text("x")
        staged.copy_file(name)
        path.unlink()
        staged.copy_file(name)
    assert staged.files == {}


def test_a_folder_that_is_not_there_and_a_file_that_cannot_be_read_are_one_line_each(
    joined: FederationConfig, tmp_path: Path
) -> None:
    with pytest.raises(BackupError, match=r"cannot write .*none/b\.tar: No such file"):
        create_backup(tmp_path / "none" / "b.tar", configs=[joined])
    (tmp_path / "home" / "odd").write_text("x")
    (tmp_path / "home" / "odd").chmod(0)
    if os.geteuid():  # root reads everything
        with pytest.raises(BackupError, match="odd cannot be copied"):
            back_up(tmp_path, joined)


def begun(tmp_path: Path, store: str) -> subprocess.Popen[str]:
    """A sealed backup by the command line that has read every private key."""
    recipient = str(pyrage.x25519.Identity.generate().to_public())
    out = tmp_path / "usb" / "b.tar.age"
    out.parent.mkdir(exist_ok=True)
    (tmp_path / "federation.yaml").write_text(store)
    command = [sys.executable, "-c", SLOW, "backup", str(out), "--recipient", recipient]
    command += ["--config", str(tmp_path / "federation.yaml")]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout
    assert running.stdout.readline() == "read\n"
    return running


@pytest.mark.servers
def test_private_keys_in_clear_are_never_beside_a_sealed_archive_and_go_when_it_is_ended(
    joined: FederationConfig, tmp_path: Path
) -> None:
    home, usb = tmp_path / "home", tmp_path / "usb"
    with begun(tmp_path, joined.model_dump_json()) as running:
        assert [path.name.startswith(".b.tar.age.") for path in usb.iterdir()] == [True]  # the sealed draft
        assert len(list(home.glob(".backup-*"))) == 1
        running.send_signal(signal.SIGTERM)
        _, err = running.communicate(timeout=120)
        assert running.returncode == 128 + signal.SIGTERM, err
    assert list(usb.iterdir()) == []
    assert list(home.glob(".backup-*")) == []


@pytest.mark.servers
def test_what_a_killed_backup_left_goes_with_the_next_one_and_what_another_holds_does_not(
    joined: FederationConfig, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with begun(tmp_path, joined.model_dump_json()) as running:
        (held,) = home.glob(".backup-*")
        back_up(tmp_path, joined)
        assert list(home.glob(".backup-*")) == [held]
        running.kill()
    (tmp_path / "b.tar").unlink()
    back_up(tmp_path, joined)
    assert list(home.glob(".backup-*")) == []


def test_an_archive_that_another_backup_wrote_meanwhile_is_not_overwritten(
    joined: FederationConfig, tmp_path: Path
) -> None:
    def written_meanwhile(line: str) -> None:
        if line.startswith("databases and files"):
            (tmp_path / "b.tar").write_text("another one")

    with pytest.raises(ConfigError, match="is there already"):
        create_backup(tmp_path / "b.tar", configs=[joined], progress=written_meanwhile)
    assert (tmp_path / "b.tar").read_text() == "another one"


def test_a_backup_beside_an_up_that_has_begun_waits_says_so_and_starts_no_second_server(
    minio_server: MinioServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "home"))
    place = StackPaths.here()
    place.create()
    (place.minio / "meta.db").touch()
    running = replace(
        read_endpoints(place, StackState(ports={"minio": 1, "door": 4, "prefect": 2, "mlflow": 3})),
        minio_url=minio_server.endpoint,
    )
    minio_credentials(place.minio, minio_server.access_key, minio_server.secret_key)
    looks = iter([None, running])  # `up` is done once its lock is free
    monkeypatch.setattr(stores, "endpoints", lambda: next(looks))
    monkeypatch.setattr(stores, "MinioServer", lambda _: pytest.fail("a second server on one volume"))
    said: list[str] = []

    def enter() -> None:
        with stores.local_stores(stores.own_buckets(), say=said.append):
            said.append("entered")

    with place.lock():
        waiting = threading.Thread(target=enter, daemon=True)
        waiting.start()
        until = time.monotonic() + 40
        while not said and time.monotonic() < until:
            time.sleep(0.01)
        assert said == ["waiting for another fedllm at work on this stack: up, down, backup or restore"]
    waiting.join(80)
    assert said[1:] == ["entered"]

"""A home that a restore fills is its own: from the last look at it until all of it is on the disk."""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedllm.backup.archive import ArchiveWriter, new_archive
from fedllm.backup.create import create_backup
from fedllm.backup.manifest import Bucket, Manifest, StoredObject
from fedllm.backup.restore import restore
from fedllm.config.home import refuse_half_restored
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.errors import BackupError, ConfigError
from tests.backup.lost import lose_everything, restore_backup
from tests.backup.private_site import lose, site


@pytest.fixture
def lost(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that is not there yet; `b.tar` beside it holds one with a site."""
    site(home / "sites" / "mill")
    create_backup(tmp_path / "b.tar")
    return lose(tmp_path, monkeypatch)


def contents(home: Path) -> dict[str, bytes]:
    return {str(p.relative_to(home)): p.read_bytes() for p in home.rglob("*") if p.is_file()}


def meanwhile(act: Callable[[], None]) -> Callable[[str], None]:
    """Hears a restore's progress, and acts between the check of the archive and what comes after it."""

    def hear(line: str) -> None:
        if "is whole" in line:
            act()

    return hear


def test_all_of_a_home_is_on_the_disk_before_it_counts_as_whole(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert archive
    new = lose_everything(tmp_path, monkeypatch)
    sync, seen = os.sync, []

    def look() -> None:
        seen.append(contents(new))
        sync()

    monkeypatch.setattr(os, "sync", look)
    restore_backup(tmp_path)
    assert seen == [contents(new) | {"restoring": b""}]


def test_a_home_that_is_filled_while_the_archive_is_checked_is_refused_and_left_alone(
    lost: Path, tmp_path: Path
) -> None:
    def fill() -> None:
        (lost / "ca").mkdir(parents=True)
        (lost / "ca" / "ca.key").write_text("made meanwhile")

    with pytest.raises(ConfigError, match=r"is not empty \(ca\)"):
        restore(tmp_path / "b.tar", progress=meanwhile(fill))
    assert contents(lost) == {"ca/ca.key": b"made meanwhile"}


def test_a_second_restore_that_has_begun_meanwhile_keeps_its_home_and_its_mark(
    lost: Path, tmp_path: Path
) -> None:
    def begin() -> None:
        lost.mkdir()
        (lost / "restoring").touch()

    with pytest.raises(ConfigError, match="another restore has begun"):
        restore(tmp_path / "b.tar", progress=meanwhile(begin))
    assert contents(lost) == {"restoring": b""}


def test_an_up_that_began_after_the_last_look_keeps_its_stack(
    lost: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = StackPaths.lock

    @contextmanager
    def late(self: StackPaths, *said: Callable[[str], None]) -> Iterator[None]:
        self.create()  # as `up` does, before it waits for the lock
        self.write_private(self.state, "{}")
        with real(self, *said):
            yield

    monkeypatch.setattr(StackPaths, "lock", late)
    with pytest.raises(ConfigError, match="`fedllm up` has begun"):
        restore(tmp_path / "b.tar")
    assert contents(lost) == {"stack/lock": b"", "stack/stack.json": b"{}"}


def fails(line: str) -> None:
    """Hears a restore's progress, and has it fail when files are back."""
    if "are back" in line:
        raise RuntimeError("on purpose")


def test_a_restore_that_fails_leaves_the_cache_that_it_found_and_nothing_else(
    lost: Path, tmp_path: Path
) -> None:
    (lost / "cache").mkdir(parents=True)
    (lost / "cache" / "model").write_text("costly")
    with pytest.raises(RuntimeError, match="on purpose"):
        restore(tmp_path / "b.tar", progress=fails)
    assert [path.name for path in lost.iterdir()] == ["cache"]
    assert contents(lost) == {"cache/model": b"costly"}


def test_a_home_that_could_not_be_emptied_again_goes_on_saying_that_it_is_half(
    lost: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "on purpose")

    monkeypatch.setattr(shutil, "rmtree", full)
    with pytest.raises(OSError, match="on purpose"):
        restore(tmp_path / "b.tar", progress=fails)
    assert "restoring" in contents(lost)
    with pytest.raises(BackupError, match="is half restored"):
        refuse_half_restored()


@pytest.mark.servers
def test_the_stack_is_locked_while_its_home_and_its_own_buckets_are_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "new"))
    (tmp_path / "source").write_text("{}")
    with new_archive(tmp_path / "b.tar", ()) as stream:
        made = ArchiveWriter(stream)
        made.add("objects/fedllm/test/a", tmp_path / "source")
        bucket = Bucket(folder="fedllm", url="s3://fedllm", own=True)
        stored = StoredObject(member="objects/fedllm/test/a", folder="fedllm", key="test/a")
        made.finish(
            Manifest(
                fedllm="0",
                taken=1.0,
                home="/x",
                keys=True,
                federations={},
                ledgers=(),
                databases=(),
                buckets=(bucket,),
                objects=(stored,),
                members=tuple(made.members),
            )
        )
    locked: list[bool] = []

    def hear(_: str) -> None:
        path = StackPaths.here().folder / "lock"
        if path.exists():
            with path.open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    locked.append(True)
                else:
                    locked.append(False)

    assert restore(tmp_path / "b.tar", progress=hear).objects == 1  # it does not wait for itself
    assert len(locked) > 1
    assert all(locked)
    with StackPaths.here().lock(pytest.fail):
        assert not (tmp_path / "new" / "restoring").exists()

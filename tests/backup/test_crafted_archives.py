"""Archives that no fedllm wrote: whole, and meant to write where they should not."""

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fedllm.backup.archive import ArchiveWriter, new_archive
from fedllm.backup.manifest import Bucket, FederationMark, LedgerMark, Manifest, Member, StoredObject
from fedllm.backup.restore import restore
from fedllm.errors import BackupError, DiskFullError


def manifest(**said: Any) -> Manifest:  # noqa: ANN401 - any field
    empty: dict[str, Any] = dict.fromkeys(("ledgers", "databases", "buckets", "objects", "members"), ())
    return Manifest(
        **{"fedllm": "0", "taken": 1.0, "home": "/x", "keys": True, "federations": {}} | empty | said
    )


def crafted(tmp_path: Path, names: tuple[str, ...], **said: Any) -> None:  # noqa: ANN401 - any field
    """An archive that no fedllm wrote: whole, and with a list of contents as it is given."""
    (tmp_path / "source").write_text("x")
    with new_archive(tmp_path / "b.tar", ()) as stream:
        made = ArchiveWriter(stream)
        for name in names:
            made.add(name, tmp_path / "source")
        made.finish(manifest().model_copy(update=said | {"members": tuple(made.members)}))


@pytest.mark.parametrize(
    "name", ["home/../outside", "home//etc/outside", "home/a/../../../outside", "home/cache/outside"]
)
def test_an_archive_that_leads_out_of_the_home_is_refused_and_leaves_the_home_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    crafted(tmp_path, ("home/coordinator/good", name))
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "deep" / "new"))
    with pytest.raises(BackupError, match="leads out of the home"):
        restore(tmp_path / "b.tar")
    assert list((tmp_path / "deep" / "new").iterdir()) == []
    assert not list(tmp_path.rglob("outside"))


MARK = FederationMark(roster_version=1, head_counter=1, epoch=1)
VICTIM = StoredObject(member="objects/v/cron.d/x", folder="v", key="cron.d/x")


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ((), {"federations": {"../../prod/coordinator/f": MARK}}),
        (("objects/v/cron.d/x",), {"objects": (VICTIM,), "buckets": ()}),
        (
            ("objects/v/cron.d/x",),
            {
                "objects": (VICTIM,),
                "buckets": (Bucket.model_construct(folder="v", url="file:///victim", prefix="none/"),),
            },
        ),
        (
            ("objects/v/cron.d/x",),
            {
                "objects": (VICTIM,),
                "buckets": (Bucket.model_construct(folder="v", url="file:///victim", prefix=""),),
            },
        ),
        (("objects/v/cron.d/x",), {}),
        (("postgres/journal.dump",), {}),
        (("etc/passwd",), {}),
        ((), {"databases": ("other",)}),
    ],
)
def test_a_list_of_contents_that_accounts_for_less_than_would_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: tuple[str, ...], said: dict[str, Any]
) -> None:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "new"))
    crafted(tmp_path, members, **said)
    with pytest.raises(BackupError, match="list of contents cannot be read"):
        restore(tmp_path / "b.tar", stores=["file:///victim"])
    assert not (tmp_path / "new").exists()


def test_a_ledger_that_is_not_where_the_list_of_contents_has_it_is_not_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "new"))
    mark = LedgerMark(home="books", dataset="ward-7", seq=3, sha256="0" * 64)
    crafted(tmp_path, ("home/books/.ledger.db",), ledgers=(mark,))
    for said in (True, False):
        with pytest.raises(BackupError, match="privacy ledger of ward-7 in books differs"):
            restore(tmp_path / "b.tar", nothing_spent=said)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_bucket_of_ones_own_names_its_part(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="give the prefix of the"):
        Bucket(folder="of-f", url=f"file://{tmp_path}")
    assert manifest(buckets=(Bucket(folder="of-f", url="s3://b", prefix="f/"),)).buckets


@pytest.mark.servers  # tar's own process
def test_a_sparse_member_that_claims_a_terabyte_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "new"))
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(1 << 40)
    command = ["tar", "--sparse", "--create", "--file", "b.tar", "--transform", "s:^:home/:"]
    for form in ("gnu", "posix"):
        subprocess.run([*command, f"--format={form}", "hole"], cwd=tmp_path, check=True)
        assert (tmp_path / "b.tar").stat().st_size < 1 << 20
        began = time.monotonic()
        with pytest.raises(BackupError, match="hole is no plain file"):
            restore(tmp_path / "b.tar")
        assert time.monotonic() - began < 10
        (tmp_path / "b.tar").unlink()
    assert not (tmp_path / "new").exists()


def test_an_archive_that_the_disk_has_no_room_for_is_refused_before_a_byte_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "deep" / "new"))
    crafted(tmp_path, ("home/coordinator/good",))
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as full:
        full.setattr("shutil.disk_usage", lambda _: usage._replace(free=1))
        with pytest.raises(DiskFullError, match="GB are needed: make space, then restore again"):
            restore(tmp_path / "b.tar")
    assert not (tmp_path / "deep").exists()
    restore(tmp_path / "b.tar")


def test_room_is_counted_for_what_comes_to_this_disk() -> None:
    listed = manifest(
        members=[
            Member(name="home/a", size=10, sha256=""),
            Member(name="objects/own/k", size=200, sha256=""),
            Member(name="objects/theirs/k", size=3000, sha256=""),
        ],
        buckets=[
            Bucket(folder="own", url="s3://b", own=True),
            Bucket(folder="theirs", url="s3://t", prefix="f/"),
        ],
        objects=[
            StoredObject(member="objects/own/k", folder="own", key="k"),
            StoredObject(member="objects/theirs/k", folder="theirs", key="f/k"),
        ],
    )
    assert listed.room == 10 + 200 + 3000  # the last in passing

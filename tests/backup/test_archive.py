import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest

from fedllm.backup import archive, reading
from fedllm.backup.archive import ArchiveWriter, new_archive
from fedllm.backup.manifest import MANIFEST, Bucket, Manifest, StoredObject
from fedllm.backup.reading import members, verify
from fedllm.errors import BackupError, ConfigError, IdentityError

SECRET = b"the coordinator's key " * 400
BUCKETS = (Bucket(folder="fedllm", url="s3://fedllm", own=True),)
OBJECTS = (StoredObject(member="objects/fedllm/test/head.json", folder="fedllm", key="test/head.json"),)


def write(out: Path, recipients: tuple[str, ...] = ()) -> Manifest:
    """A small archive of two files."""
    with new_archive(out, recipients) as stream:
        archive = ArchiveWriter(stream)
        for name, body in {"home/a.key": SECRET, "objects/fedllm/test/head.json": b"{}"}.items():
            source = out.with_name("source")
            source.write_bytes(body)
            archive.add(name, source)
        manifest = Manifest(
            fedllm="0", taken=1.0, home="/somewhere", keys=True, federations={}, ledgers=(), databases=(),
            buckets=BUCKETS, objects=OBJECTS, members=tuple(archive.members),
        )  # fmt: skip
        archive.finish(manifest)
    return manifest


def rewrite(path: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> None:
    """Write an archive again with other members."""
    with tarfile.open(path) as tar:
        held = [(info, (tar.extractfile(info) or io.BytesIO()).read()) for info in tar]
    change(held)
    with tarfile.open(path, "w") as tar:
        for info, body in held:
            info.size = len(body) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(body))


def test_an_archive_is_its_owners_alone_and_holds_what_went_in(tmp_path: Path) -> None:
    out = tmp_path / "b.tar"
    old = os.umask(0)
    try:
        made = write(out)
    finally:
        os.umask(old)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert verify(out) == made
    assert {name: file.read(10**6) for name, file in members(out)}["home/a.key"] == SECRET
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_an_archive_never_overwrites_another_one(tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_text("precious")
    with pytest.raises(ConfigError, match="is there already"):
        write(tmp_path / "b.tar")
    assert (tmp_path / "b.tar").read_text() == "precious"


def test_a_list_of_contents_that_no_restore_would_read_is_no_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write(tmp_path / "a.tar")
    size = len(made.model_dump_json())
    assert archive.LARGEST_MANIFEST == reading.LARGEST_MANIFEST
    for module in (archive, reading):
        monkeypatch.setattr(module, "LARGEST_MANIFEST", size)
    write(tmp_path / "b.tar")
    assert verify(tmp_path / "b.tar") == made
    monkeypatch.setattr(archive, "LARGEST_MANIFEST", size - 1)
    with pytest.raises(BackupError, match="2 files and objects are more than"):
        write(tmp_path / "c.tar")
    assert not [path for path in tmp_path.iterdir() if "c.tar" in path.name]


def break_off(out: Path, recipients: tuple[str, ...]) -> None:
    with new_archive(out, recipients) as stream:
        stream.write(b"half")
        raise RuntimeError("on purpose")


def test_what_fails_while_it_is_written_leaves_no_archive(tmp_path: Path) -> None:
    recipient = str(pyrage.x25519.Identity.generate().to_public())
    for recipients in ((), (recipient,)):
        with pytest.raises(RuntimeError, match="on purpose"):
            break_off(tmp_path / "b.tar", recipients)
    assert list(tmp_path.iterdir()) == []


def test_a_sealed_archive_opens_for_its_identity_alone(tmp_path: Path) -> None:
    mine, others = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
    made = write(tmp_path / "b.tar", (str(mine.to_public()),))
    for name, identity in (("mine", mine), ("others", others)):
        (tmp_path / name).write_text(f"# created: today\n{identity}\n")
        (tmp_path / name).chmod(0o600)
    assert b"coordinator's key" not in (tmp_path / "b.tar").read_bytes()
    assert verify(tmp_path / "b.tar", tmp_path / "mine") == made
    with pytest.raises(ConfigError, match="--identity"):
        verify(tmp_path / "b.tar")
    with pytest.raises(BackupError, match="sealed for another"):
        verify(tmp_path / "b.tar", tmp_path / "others")
    (tmp_path / "mine").chmod(0o644)
    with pytest.raises(IdentityError, match="open to others"):
        verify(tmp_path / "b.tar", tmp_path / "mine")


def test_a_recipient_that_is_none_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="begins with age1"):
        write(tmp_path / "b.tar", ("age1nonsense",))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("where", [0.02, 0.3, 0.6])
def test_a_flipped_bit_and_a_lost_end_are_found(tmp_path: Path, where: float, *, sealed: bool) -> None:
    mine = pyrage.x25519.Identity.generate()
    out, key = tmp_path / "b.tar", tmp_path / "key"
    key.write_text(str(mine))
    key.chmod(0o600)
    write(out, (str(mine.to_public()),) if sealed else ())
    whole = out.read_bytes()
    # Past the first header: a tar's own padding says nothing and may be anything.
    at = 600 + int((len(SECRET) if not sealed else len(whole) - 700) * where)
    out.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(BackupError):
        verify(out, key)
    out.write_bytes(whole[:at])
    with pytest.raises(BackupError):
        verify(out, key)


def add(held: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    held.insert(0, (tarfile.TarInfo("home/new"), b"x"))


def twice(held: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    held.insert(0, held[0])


def after(held: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    held.append((tarfile.TarInfo("home/new"), b"x"))


def link(held: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    info = tarfile.TarInfo("home/link")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    held.insert(0, (info, b""))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda held: held.pop(0), "home/a.key is missing"),
        (lambda held: held.pop(), "list of contents is missing"),
        (add, "home/new is not what the list"),
        (twice, "is in it twice"),
        (after, "comes after the list"),
        (link, "home/link is no plain file"),
        (lambda held: held.__setitem__(0, (held[0][0], b"other")), "home/a.key is not what"),
        (lambda held: held.__setitem__(-1, (held[-1][0], b"{}")), "list of contents cannot be read"),
    ],
)
def test_an_archive_that_was_changed_is_refused_with_what_is_wrong(
    tmp_path: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None], words: str
) -> None:
    write(tmp_path / "b.tar")
    rewrite(tmp_path / "b.tar", change)
    with pytest.raises(BackupError, match=words):
        verify(tmp_path / "b.tar")


def test_what_is_no_archive_is_one_line(tmp_path: Path) -> None:
    for body in (b"", b"hello", os.urandom(5000), b"age-encryption.org/v1\n"):
        (tmp_path / "b.tar").write_bytes(body)
        with pytest.raises((BackupError, ConfigError)) as caught:
            verify(tmp_path / "b.tar")
        assert "\n" not in str(caught.value)
    with pytest.raises(BackupError, match=r"none\.tar: no such file"):
        verify(tmp_path / "none.tar")
    assert MANIFEST == "manifest.json"

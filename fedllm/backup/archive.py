"""Write the archive: a tar whose last member lists the others with their hashes; age can seal it."""

import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import pyrage

from fedllm.backup.draft import Draft, already_exists
from fedllm.backup.manifest import LARGEST_MANIFEST, MANIFEST, Manifest, Member
from fedllm.errors import BackupError, ConfigError


class ArchiveWriter:
    """Write members one by one and hash each on the way."""

    def __init__(self, stream: BinaryIO) -> None:
        self._tar = tarfile.TarFile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT)
        self.members: list[Member] = []

    def add(self, name: str, path: Path, mode: int = 0o600) -> Member:
        """Add a file, which must not change during the call."""
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            reader = _Hashing(file)
            self._tar.addfile(_header(name, size, mode), reader)
        member = Member(name=name, size=size, sha256=reader.digest.hexdigest(), mode=mode)
        self.members.append(member)
        return member

    def finish(self, manifest: Manifest) -> None:
        """Write the list of contents and close the archive.

        Raises:
            BackupError: the list is larger than a restore reads.
        """
        body = manifest.model_dump_json().encode()
        if len(body) > LARGEST_MANIFEST:
            self._tar.close()
            raise BackupError(
                f"{len(manifest.members)} files and objects are more than an archive's list of contents "
                "holds: remove what is over (`fedllm gc`) and what does not belong there, then back up again"
            )
        self._tar.addfile(_header(MANIFEST, len(body), 0o600), io.BytesIO(body))
        self._tar.close()


class _Hashing(io.RawIOBase):
    """File wrapper that hashes the bytes read through it."""

    def __init__(self, inner: IO[bytes]) -> None:
        self._inner = inner
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._inner.read(size)
        self.digest.update(data)
        return data


def _header(name: str, size: int, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, mode
    return info


@contextmanager
def new_archive(out: Path, recipients: Sequence[str]) -> Iterator[BinaryIO]:
    """Open a file (mode 600) that appears as `out` when the block succeeds, sealed for any `recipients`.

    Raises:
        ConfigError: a recipient is invalid, or `out` exists.
        BackupError: the file cannot be written.
        DiskFullError: the disk has no room.
    """
    keys = [_recipient(text) for text in recipients]
    if out.exists():
        raise already_exists(out)
    sink = Draft(out)
    try:
        with sink.recording_fault():
            sink.open()
        if keys:
            with _pipe_to(lambda source: pyrage.encrypt_io(source, sink, keys)) as clear:
                yield clear
        else:
            yield cast("BinaryIO", sink)
        with sink.recording_fault():
            sink.publish()
    except Exception as error:
        if sink.fault is not None:
            raise sink.error() from error
        raise
    finally:
        sink.close()


def _recipient(text: str) -> Any:  # noqa: ANN401 - pyrage has no types
    try:
        return pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        raise ConfigError(f"--recipient {text!r} is no age recipient: one begins with age1") from None


@contextmanager
def _pipe_to(drain: Callable[[BinaryIO], None]) -> Iterator[BinaryIO]:
    """Yield a file whose bytes `drain` reads in a thread; re-raise its exception here."""
    source, sink = os.pipe()
    failures: list[Exception] = []

    def work() -> None:
        with os.fdopen(source, "rb") as reading:
            try:
                drain(reading)
            except Exception as error:  # noqa: BLE001 - raised below, in the caller's thread
                failures.append(error)

    thread = threading.Thread(target=work, name="age", daemon=True)
    thread.start()
    try:
        try:
            with os.fdopen(sink, "wb") as writing:
                yield writing
        finally:
            thread.join()  # on every exit: a thread still in age when Python ends aborts the process
    except BrokenPipeError:
        raise (failures or [BackupError("the sealed archive broke off")])[0] from None
    if failures:
        raise failures[0]

"""Reads an archive from its beginning to its end, and believes nothing of it that its list does not say."""

import hashlib
import os
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

import pyrage
from pydantic import ValidationError

from fedllm.backup.manifest import LARGEST_MANIFEST, MANIFEST, Manifest
from fedllm.errors import BackupError, ConfigError, IdentityError
from fedllm.secure.identity import read_private

_AGE = b"age-encryption.org/v1"
_CHUNK = 1 << 20  # bytes


def verify(path: Path, identity: Path | None = None) -> Manifest:
    """Read a whole archive and hold every member against the list; returns the list.

    Args:
        path: the archive.
        identity: file (mode 600) of the age identity that a sealed archive is opened with.

    Raises:
        BackupError: it is damaged, cut off, or holds what the list does not name.
        ConfigError: it is sealed, and no identity was given.
    """
    found: dict[str, tuple[int, str]] = {}
    manifest: Manifest | None = None
    for name, file in members(path, identity):
        if manifest is not None:
            raise _damaged(path, f"{name} comes after the list of contents")
        if name == MANIFEST:
            manifest = _manifest(path, file)
        elif name in found:
            raise _damaged(path, f"{name} is in it twice")
        else:
            found[name] = _size_and_hash(file)
    if manifest is None:
        raise _damaged(path, "its list of contents is missing: it was cut off")
    listed = {member.name: (member.size, member.sha256) for member in manifest.members}
    for name in sorted(listed.keys() | found.keys()):
        if name not in found:
            raise _damaged(path, f"{name} is missing")
        if listed.get(name) != found[name]:
            raise _damaged(path, f"{name} is not what the list of contents says")
    return manifest


class Reader:
    """The bytes of one member."""

    def __init__(self, archive: Path, file: IO[bytes]) -> None:
        self._archive, self._file = archive, file

    def read(self, size: int) -> bytes:
        """At most so many bytes more. Raises `BackupError` where the archive breaks off."""
        try:
            return self._file.read(size)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise _damaged(self._archive, str(error) or "it breaks off") from None


def members(path: Path, identity: Path | None = None) -> Iterator[tuple[str, Reader]]:
    """Every member's name and bytes, in order; each must be read before the next is asked for.

    Raises:
        BackupError, ConfigError: as `verify`.
    """
    try:
        with _opened(path, identity) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for info in tar:
                # A sparse member claims bytes that are in no archive: a few of them fill any disk.
                file = tar.extractfile(info) if info.isreg() and not info.issparse() else None
                if file is None:
                    raise _damaged(path, f"{info.name} is no plain file")
                yield info.name, Reader(path, file)
    except (tarfile.TarError, EOFError, UnicodeDecodeError) as error:
        raise _damaged(path, str(error) or "it breaks off") from None
    except FileNotFoundError:
        raise BackupError(f"{path}: no such file") from None
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from None


def save(file: Reader, path: Path, sha256: str) -> None:
    """Write a member to a new file of mode 600. Raises `BackupError` when it is not the listed one."""
    digest = hashlib.sha256()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            out.write(chunk)
    if digest.hexdigest() != sha256:
        raise BackupError(f"{path.name} changed since the archive was checked")


def _size_and_hash(file: Reader) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return size, digest.hexdigest()


def _manifest(path: Path, file: Reader) -> Manifest:
    body = file.read(LARGEST_MANIFEST + 1)
    try:
        return Manifest.model_validate_json(body)
    except ValidationError as error:
        said = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise _damaged(path, f"its list of contents cannot be read ({said})") from None


@contextmanager
def _opened(path: Path, identity: Path | None) -> Iterator[BinaryIO]:
    with path.open("rb") as file:
        sealed = file.read(len(_AGE)) == _AGE
        file.seek(0)
        if not sealed:
            yield file
            return
        if identity is None:
            raise ConfigError(f"{path} is sealed: name the file of the age identity with --identity")
        key = _identity(identity)
        with _drained(lambda sink: pyrage.decrypt_io(file, sink, [key]), path) as clear:
            yield clear


def _identity(path: Path) -> Any:  # noqa: ANN401 - pyrage has no types
    lines = read_private(path).decode("ascii", "replace").splitlines()
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    try:
        return pyrage.x25519.Identity.from_str(keys[0])
    except (IndexError, pyrage.IdentityError):  # never quote the cause: it may hold the key
        raise IdentityError(f"{path} holds no age identity: one begins with AGE-SECRET-KEY-1") from None


@contextmanager
def _drained(fill: Any, path: Path) -> Iterator[BinaryIO]:  # noqa: ANN401 - a function that fills a file
    """What `fill` writes in a thread can be read in the block; what it raises is raised here."""
    source, sink = os.pipe()
    failed: list[Exception] = []

    def work() -> None:
        try:
            with os.fdopen(sink, "wb") as writing:
                fill(writing)
        except Exception as error:  # noqa: BLE001 - it is raised below, in the other thread
            failed.append(error)

    thread = threading.Thread(target=work, name="age", daemon=True)
    thread.start()
    try:
        try:
            with os.fdopen(source, "rb") as reading:
                yield reading
                while reading.read(_CHUNK):  # what follows the tar's end is authenticated as well
                    pass
        finally:
            thread.join()  # whatever ends the block: in age, a thread that outlives Python aborts the process
    except (tarfile.TarError, EOFError, OSError):
        if failed:
            raise _unsealed(path, failed[0]) from None
        raise
    if failed:
        raise _unsealed(path, failed[0])


def _unsealed(path: Path, error: Exception) -> BackupError:
    if isinstance(error, pyrage.DecryptError):
        return BackupError(
            f"{path} cannot be opened with this identity: it is sealed for another, or damaged"
        )
    return _damaged(path, str(error))


def _damaged(path: Path, why: str) -> BackupError:
    return BackupError(f"{path} is damaged: {why}; use another backup")

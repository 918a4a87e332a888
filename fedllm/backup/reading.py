"""Read an archive from beginning to end and accept only what its list of contents names."""

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
    """Read a whole archive, compare every member with the list of contents, and return the list.

    Args:
        path: the archive.
        identity: file (mode 600) of the age identity that opens a sealed archive.

    Raises:
        BackupError: the archive is damaged, truncated, or has members that the list does not name.
        ConfigError: the archive is sealed and no identity was given.
    """
    actual: dict[str, tuple[int, str]] = {}
    manifest: Manifest | None = None
    for name, file in members(path, identity):
        if manifest is not None:
            raise _damaged(path, f"{name} comes after the list of contents")
        if name == MANIFEST:
            manifest = _manifest(path, file)
        elif name in actual:
            raise _damaged(path, f"{name} is in it twice")
        else:
            actual[name] = _size_and_hash(file)
    if manifest is None:
        raise _damaged(path, "its list of contents is missing: it was cut off")
    listed = {member.name: (member.size, member.sha256) for member in manifest.members}
    for name in sorted(listed.keys() | actual.keys()):
        if name not in actual:
            raise _damaged(path, f"{name} is missing")
        if listed.get(name) != actual[name]:
            raise _damaged(path, f"{name} is not what the list of contents says")
    return manifest


class Reader:
    """The bytes of one member."""

    def __init__(self, archive: Path, file: IO[bytes]) -> None:
        self._archive, self._file = archive, file

    def read(self, size: int) -> bytes:
        """Return at most `size` more bytes. Raises `BackupError` if the archive is truncated."""
        try:
            return self._file.read(size)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise _damaged(self._archive, str(error) or "it breaks off") from None


def members(path: Path, identity: Path | None = None) -> Iterator[tuple[str, Reader]]:
    """Yield every member's name and bytes in order; read each before advancing.

    Raises:
        BackupError, ConfigError: as `verify`.
    """
    try:
        with _opened(path, identity) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for info in tar:
                # A sparse member declares bytes that the archive does not contain: a few could fill any disk.
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
    """Write a member to a new file of mode 600. Raises `BackupError` if its SHA-256 is not `sha256`."""
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
        fault = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise _damaged(path, f"its list of contents cannot be read ({fault})") from None


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
        with _pipe_from(lambda sink: pyrage.decrypt_io(file, sink, [key]), path) as clear:
            yield clear


def _identity(path: Path) -> Any:  # noqa: ANN401 - pyrage has no types
    lines = read_private(path).decode("ascii", "replace").splitlines()
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    try:
        return pyrage.x25519.Identity.from_str(keys[0])
    except (IndexError, pyrage.IdentityError):  # never quote the cause: it may hold the key
        raise IdentityError(f"{path} holds no age identity: one begins with AGE-SECRET-KEY-1") from None


@contextmanager
def _pipe_from(fill: Any, path: Path) -> Iterator[BinaryIO]:  # noqa: ANN401 - a function that fills a file
    """Yield a file with the bytes that `fill` writes in a thread; re-raise its exception here."""
    source, sink = os.pipe()
    failures: list[Exception] = []

    def work() -> None:
        try:
            with os.fdopen(sink, "wb") as writing:
                fill(writing)
        except Exception as error:  # noqa: BLE001 - raised below, in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=work, name="age", daemon=True)
    thread.start()
    try:
        try:
            with os.fdopen(source, "rb") as reading:
                yield reading
                while reading.read(_CHUNK):  # age also authenticates the bytes after the tar's end
                    pass
        finally:
            thread.join()  # on every exit: a thread still in age when Python ends aborts the process
    except (tarfile.TarError, EOFError, OSError):
        if failures:
            raise _unsealed(path, failures[0]) from None
        raise
    if failures:
        raise _unsealed(path, failures[0])


def _unsealed(path: Path, error: Exception) -> BackupError:
    if isinstance(error, pyrage.DecryptError):
        return BackupError(
            f"{path} cannot be opened with this identity: it is sealed for another, or damaged"
        )
    return _damaged(path, str(error))


def _damaged(path: Path, why: str) -> BackupError:
    return BackupError(f"{path} is damaged: {why}; use another backup")

"""A folder as a store, for tests and simulations on one machine.

It does not isolate parties: anyone with access to the folder can read and write every key. Use MinIO between
parties.
"""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedllm.disk import replacing
from fedllm.errors import AccessDeniedError, ExchangeError, ObjectNotFoundError, RefusedError
from fedllm.exchange.store import ObjectInfo
from fedllm.protocol.key_rules import checked_key, checked_prefix

CHUNK = 1 << 20  # bytes


class DirectoryStore:
    """A store whose objects are files below `folder`, one folder per slash of a key. Writes are atomic."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().resolve()
        with _translated_errors(str(folder), writing=True):
            self.folder.mkdir(parents=True, exist_ok=True)

    def __repr__(self) -> str:
        return f"DirectoryStore({str(self.folder)!r})"

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """Write or replace a small object."""
        path = self._path(key)
        with _translated_errors(key, writing=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                file.write(data)
        return self.stat(key)

    def put_file(self, key: str, path: Path) -> ObjectInfo:
        """Write an object from a file, streamed."""
        target = self._path(key)
        with _translated_errors(key, writing=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as source, replacing(target) as file:
                while chunk := source.read(CHUNK):
                    file.write(chunk)
        return self.stat(key)

    def get(self, key: str, *, limit: int) -> bytes:
        """Read a small object. Raises `RefusedError` when it is larger than `limit` bytes."""
        with _translated_errors(key), self._path(key).open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise RefusedError(f"{key} is larger than {limit} bytes")
        return data

    def get_if_changed(self, key: str, etag: str | None, *, limit: int) -> tuple[bytes, str] | None:
        """Return an object's bytes and etag; None if its etag is still `etag`."""
        data = self.get(key, limit=limit)
        current = hashlib.sha256(data).hexdigest()
        return None if current == etag else (data, current)

    def get_file(self, key: str, path: Path, *, limit: int) -> str:
        """Read an object into `path`, streamed, and return the SHA-256 (hex) of its bytes."""
        with _translated_errors(key), self._path(key).open("rb") as source:
            return write_stream(iter(lambda: source.read(CHUNK), b""), path, key, limit)

    def stat(self, key: str) -> ObjectInfo:
        """Return size, etag (SHA-256 of the content) and time of an object."""
        with _translated_errors(key), self._path(key).open("rb") as file:
            etag = hashlib.file_digest(file, "sha256").hexdigest()
            status = os.fstat(file.fileno())
        return ObjectInfo(key, status.st_size, etag, status.st_mtime)

    def list(self, prefix: str, *, most: int | None = None) -> Iterator[ObjectInfo]:
        """Yield the first `most` objects below a literal prefix, in order of their keys."""
        checked_prefix(prefix)
        start = self.folder / prefix.rpartition("/")[0]
        keys = []
        for folder, _, names in os.walk(start):
            base = Path(folder).relative_to(self.folder)
            keys += [(base / name).as_posix() for name in names if not name.startswith(".")]
        for key in sorted(key for key in keys if key.startswith(prefix))[:most]:
            with suppress(ObjectNotFoundError):  # deleted since
                yield self.stat(key)

    def delete(self, key: str) -> None:
        """Remove an object if it exists."""
        path = self._path(key)
        with suppress(ObjectNotFoundError), _translated_errors(key):
            path.unlink()

    def now(self) -> float:
        """Return the store's time, s since 1970: this machine's clock."""
        return time.time()

    def _path(self, key: str) -> Path:
        return self.folder / checked_key(key)


def write_stream(chunks: Iterator[bytes], path: Path, key: str, limit: int) -> str:
    """Write `chunks` to `path` atomically and return their SHA-256 (hex).

    Raises:
        RefusedError: The chunks exceed `limit` bytes, counted on arrival and not by a header.
    """
    digest = hashlib.sha256()
    size = 0
    with replacing(path) as file:
        for chunk in chunks:
            size += len(chunk)
            if size > limit:
                raise RefusedError(f"{key} is larger than {limit} bytes")
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


@contextmanager
def _translated_errors(key: str, *, writing: bool = False) -> Iterator[None]:
    """Turn an OSError of the block into fedllm's error."""
    try:
        yield
    except PermissionError:
        raise AccessDeniedError(f"{key}: the folder's permissions do not allow this") from None
    except OSError as error:
        if not writing and isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
            raise ObjectNotFoundError(f"{key} is not in the store") from None
        raise ExchangeError(f"{key}: {error.strerror} ({error.filename})") from None

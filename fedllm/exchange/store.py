"""The interface of an object store: the portable subset of S3 that fedllm uses."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class ObjectInfo:
    """The store's metadata of an object, trusted only for time and size."""

    key: str
    size: int  # bytes
    etag: str  # changes with the bytes
    modified: float  # s since 1970, by the store's clock


class ObjectStore(Protocol):
    """A bucket. Every call raises `ObjectNotFoundError`, `AccessDeniedError` or `ExchangeError`.

    Calls have timeouts and are retried with jitter where a retry can help; writing the same bytes to the same
    key twice is harmless.
    """

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """Write or replace a small object."""

    def put_file(self, key: str, path: Path) -> ObjectInfo:
        """Write an object from a file, streamed."""

    def get(self, key: str, *, limit: int) -> bytes:
        """Read a small object. Raises `RefusedError` when it is larger than `limit` bytes."""

    def get_if_changed(self, key: str, etag: str | None, *, limit: int) -> tuple[bytes, str] | None:
        """Return an object's bytes and etag by a conditional GET; None if its etag is still `etag`."""

    def get_file(self, key: str, path: Path, *, limit: int) -> str:
        """Read an object into `path`, streamed, and return the SHA-256 (hex) of its bytes.

        `path` is written atomically. Raises `RefusedError` when the object is larger than `limit` bytes.
        """

    def stat(self, key: str) -> ObjectInfo:
        """Return size, etag and time of an object."""

    def list(self, prefix: str, *, most: int | None = None) -> Iterator[ObjectInfo]:
        """Yield the first `most` objects below a literal prefix, in order of their keys."""

    def delete(self, key: str) -> None:
        """Remove an object if it exists."""

    def now(self) -> float:
        """Return the store's time, s since 1970; lateness is judged by it."""

"""What fedllm asks of an object store, and nothing more: the portable subset of S3."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class ObjectInfo:
    """What the store says of an object; none of it is trusted for more than time and size."""

    key: str
    size: int  # bytes
    etag: str  # changes when the bytes do
    modified: float  # s since 1970, by the store's clock


class ObjectStore(Protocol):
    """A bucket. Every call raises `ObjectNotFoundError`, `AccessDeniedError` or `ExchangeError`.

    Calls have time-outs and are retried with jitter where a retry can help; writing the same bytes to
    the same key twice is harmless.
    """

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """Write a small object, replacing what is there."""

    def put_file(self, key: str, path: Path) -> ObjectInfo:
        """Write an object from a file, streamed."""

    def get(self, key: str, *, limit: int) -> bytes:
        """Read a small object. Raises `RefusedError` when it is larger than `limit` bytes."""

    def get_if_changed(self, key: str, etag: str | None, *, limit: int) -> tuple[bytes, str] | None:
        """Read an object with its etag, or None when its etag is still `etag`: a conditional GET."""

    def get_file(self, key: str, path: Path, *, limit: int) -> str:
        """Read an object into `path`, streamed, and return the SHA-256 (hex) of its bytes.

        `path` appears whole or not at all. Raises `RefusedError` when it is larger than `limit` bytes.
        """

    def stat(self, key: str) -> ObjectInfo:
        """Size, etag and time of an object."""

    def list(self, prefix: str, *, most: int | None = None) -> Iterator[ObjectInfo]:
        """Objects below a literal prefix, in the order of their keys; the first `most` of them."""

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    def now(self) -> float:
        """The store's clock, s since 1970: lateness is judged by it."""

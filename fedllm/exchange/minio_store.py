"""An S3 bucket as a store, through the `minio` SDK: MinIO, or any server with the portable part of S3."""

import io
import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import urlsplit

import stamina
import urllib3
from minio import Minio
from minio.error import InvalidResponseError, S3Error, ServerError
from urllib3.response import BaseHTTPResponse

from fedllm.errors import (
    ConfigError,
    ExchangeError,
    RefusedError,
)
from fedllm.exchange.directory_store import CHUNK, write_stream
from fedllm.exchange.failures import FAILURES, exchange_error, may_pass, status_of
from fedllm.exchange.store import ObjectInfo
from fedllm.exchange.streamed_put import LARGEST, streamed_put
from fedllm.protocol.key_rules import checked_key, checked_prefix
from fedllm.secure.trust import trusting

CONNECT, READ = 5.0, 30.0  # s per attempt
ATTEMPTS, PATIENCE = 5, 60.0  # attempts, s in total
IN_MEMORY = 16 << 20  # bytes; the SDK sends objects up to this size and holds them in memory

_NOT_MODIFIED = 304

log = logging.getLogger(__name__)


def _log_retry(details: stamina.instrumentation.RetryDetails) -> None:
    why = type(details.caused_by).__name__
    log.warning("no answer (%s): attempt %d follows in %.1f s", why, details.retry_num + 1, details.wait_for)


# Replaces stamina's own log line, which is meant for programs.
stamina.instrumentation.set_on_retry_hooks([_log_retry])
log.addHandler(logging.NullHandler())

T = TypeVar("T")


class MinioStore:
    """An existing bucket at `endpoint` (`http[s]://host:port`).

    With `ca` (PEM), only certificates of that authority are trusted, and http:// endpoints are refused.
    """

    def __init__(  # noqa: PLR0913 - what it takes to name and enter a bucket
        self,
        endpoint: str,
        bucket: str,
        *,
        region: str = "us-east-1",
        access_key: str | None = None,
        secret_key: str | None = None,
        ca: str | None = None,
        attempts: int = ATTEMPTS,
    ) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.bucket = bucket
        self._attempts = attempts
        self._signing = {"region": region, "access_key": access_key or "", "secret_key": secret_key or ""}
        self._http = http_pool(self.endpoint, ca)
        self._client = minio_client(self.endpoint, region, access_key, secret_key, self._http)

    def __repr__(self) -> str:
        return f"MinioStore({self.endpoint!r}, {self.bucket!r})"

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """Write or replace a small object."""
        return self._write(key, lambda: io.BytesIO(data), len(data))

    def put_file(self, key: str, path: Path) -> ObjectInfo:
        """Write an object from a file, streamed."""
        try:
            size = path.stat().st_size
            if not IN_MEMORY < size <= LARGEST:
                return self._write(key, lambda: path.open("rb"), size)
            return self._try(key, lambda: self._stream(key, path, size))
        except OSError as error:
            raise ExchangeError(f"{key}: cannot read {path}: {error.strerror}") from None

    def get(self, key: str, *, limit: int) -> bytes:
        """Read a small object. Raises `RefusedError` when it is larger than `limit` bytes."""
        return self._try(key, lambda: self._read(key, {}, limit)[0])

    def get_if_changed(self, key: str, etag: str | None, *, limit: int) -> tuple[bytes, str] | None:
        """Return an object's bytes and etag by a conditional GET; None if its etag is still `etag`."""
        headers = {} if etag is None else {"If-None-Match": f'"{etag}"'}

        def changed() -> tuple[bytes, str] | None:
            try:
                return self._read(key, headers, limit)
            except (ServerError, InvalidResponseError, S3Error) as error:
                if status_of(error) == _NOT_MODIFIED:
                    return None
                raise

        return self._try(key, changed)

    def get_file(self, key: str, path: Path, *, limit: int) -> str:
        """Read an object into `path`, streamed, and return the SHA-256 (hex) of its bytes."""

        def read() -> str:
            with closing(self._open(key, {})) as response:
                return write_stream(_chunks(response), path, key, limit)

        return self._try(key, read)

    def stat(self, key: str) -> ObjectInfo:
        """Return size, etag and time of an object."""
        status = self._try(key, lambda: self._client.stat_object(self.bucket, key))
        return _info(key, status.size, status.etag, status.last_modified)

    def list(self, prefix: str, *, most: int | None = None) -> Iterator[ObjectInfo]:
        """Yield the first `most` objects below a literal prefix, in order of their keys."""
        checked_prefix(prefix)

        def read() -> list[ObjectInfo]:
            infos = (
                _info(entry.object_name, entry.size, entry.etag, entry.last_modified)
                for entry in self._client.list_objects(self.bucket, prefix=prefix, recursive=True)
                if entry.object_name and not entry.is_dir and not entry.object_name.endswith("/")
            )
            return list(islice(infos, most))

        # Not every server lists in key order when a folder and a file share a prefix.
        yield from sorted(self._try(prefix, read, checked=True), key=lambda info: info.key)

    def delete(self, key: str) -> None:
        """Remove an object if it exists."""
        self._try(key, lambda: self._client.remove_object(self.bucket, key))

    def now(self) -> float:
        """Return the store's time, whole s since 1970, from the Date header of any answer, even a refusal."""

        def read() -> float:
            response = self._http.request("HEAD", f"{self.endpoint}/{self.bucket}")
            return parsedate_to_datetime(response.headers["Date"]).timestamp()

        try:
            return self._try(self.bucket, read, checked=True)
        except (KeyError, TypeError):
            raise ExchangeError(
                f"{self.endpoint} answers without a Date header: deadlines cannot be checked"
            ) from None

    def _write(self, key: str, source: Callable[[], BinaryIO], size: int) -> ObjectInfo:
        def write() -> ObjectInfo:
            with source() as data:
                # One part at a time: sites may have slow links and little memory. Only objects too large for
                # a single PUT have several parts.
                done = self._client.put_object(
                    self.bucket, key, data, size, part_size=IN_MEMORY, num_parallel_uploads=1
                )
            date = done.http_headers.get("Date") if done.http_headers else None
            return _info(key, size, done.etag, parsedate_to_datetime(date) if date else None)

        return self._try(key, write)

    def _stream(self, key: str, path: Path, size: int) -> ObjectInfo:
        with path.open("rb") as data:
            url = f"{self.endpoint}/{self.bucket}/{key}"
            etag, date = streamed_put(self._http, url, data, size, **self._signing)
        return _info(key, size, etag or None, parsedate_to_datetime(date) if date else None)

    def _open(self, key: str, headers: dict[str, str]) -> BaseHTTPResponse:
        return self._client.get_object(self.bucket, key, request_headers=dict(headers))

    def _read(self, key: str, headers: dict[str, str], limit: int) -> tuple[bytes, str]:
        with closing(self._open(key, headers)) as response:
            data = bytearray()
            for chunk in _chunks(response):
                data += chunk
                if len(data) > limit:
                    raise RefusedError(f"{key} is larger than {limit} bytes")
            return bytes(data), response.headers.get("ETag", "").strip('"')

    def _try(self, key: str, call: Callable[[], T], *, checked: bool = False) -> T:
        """Run a call, retry where that can help, and raise failures as fedllm's errors."""
        if not checked:
            checked_key(key)
        try:
            for attempt in stamina.retry_context(
                on=may_pass,
                attempts=self._attempts,
                timeout=PATIENCE,
                wait_initial=0.1,
                wait_max=5.0,
                wait_jitter=1.0,
            ):
                with attempt:
                    return call()
        except FAILURES as error:
            raise exchange_error(error, key, self.endpoint, self.bucket) from None
        raise AssertionError("stamina either returns or raises")  # pragma: no cover


def http_pool(endpoint: str, ca: str | None = None) -> urllib3.PoolManager:
    """Return a connection pool with timeouts and without retries, which stamina does.

    Args:
        endpoint: the server's address.
        ca: PEM of the only trusted authority; None: this machine's authorities.

    Raises:
        ConfigError: `ca` is no certificate, or the endpoint does not use https.
    """
    if ca is not None and not endpoint.startswith("https://"):
        raise ConfigError(f"store.endpoint {endpoint!r}: a CA is given for it, so write https://")
    return urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=CONNECT, read=READ),
        retries=False,
        maxsize=10,
        blocksize=1 << 18,  # bytes of a body sent at once
        ssl_context=trusting(ca) if endpoint.startswith("https://") else None,
    )


def minio_client(
    endpoint: str, region: str, access_key: str | None, secret_key: str | None, http: urllib3.PoolManager
) -> Minio:
    """Return the SDK's client for `http[s]://host:port`. Raises `ConfigError` for any other endpoint."""
    url = urlsplit(endpoint)
    if (
        url.scheme not in {"http", "https"}
        or not url.netloc
        or url.path.strip("/")
        or url.query
        or url.username
    ):
        raise ConfigError(f"store.endpoint {endpoint!r}: use https://host:port")
    try:
        return Minio(
            url.netloc,
            access_key=access_key,
            secret_key=secret_key,
            secure=url.scheme == "https",
            region=region,  # without it the SDK asks the bucket, which needs one more permission
            http_client=http,
        )
    except ValueError as error:
        raise ConfigError(f"store.endpoint {endpoint!r}: {error}") from None


def _chunks(response: BaseHTTPResponse) -> Iterator[bytes]:
    """Yield the stored bytes; content encodings are never decoded, so the size cannot grow."""
    try:
        while chunk := response.read(CHUNK, decode_content=False):
            yield chunk
    finally:
        response.release_conn()


def _info(key: str | None, size: int | None, etag: str | None, modified: datetime | None) -> ObjectInfo:
    if key is None or size is None or etag is None or modified is None:
        raise ExchangeError(f"{key}: the store does not say its size, etag and time")
    return ObjectInfo(key, size, etag.strip('"'), modified.timestamp())

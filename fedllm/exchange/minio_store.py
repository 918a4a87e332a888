"""An S3 bucket as a store, through the `minio` SDK: MinIO, or whatever speaks the portable part of S3."""

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
from fedllm.exchange.failures import FAILURES, may_pass, named, status_of
from fedllm.exchange.store import ObjectInfo
from fedllm.exchange.streamed_put import LARGEST, streamed_put
from fedllm.protocol.key_rules import checked_key, checked_prefix
from fedllm.secure.trust import trusting

CONNECT, READ = 5.0, 30.0  # s, per try
ATTEMPTS, PATIENCE = 5, 60.0  # tries, s over all of them
IN_MEMORY = 16 << 20  # bytes of an object that the SDK sends; it holds them

_NOT_MODIFIED = 304

log = logging.getLogger(__name__)


def _tell_again(details: stamina.instrumentation.RetryDetails) -> None:
    why = type(details.caused_by).__name__
    log.warning("no answer (%s): attempt %d follows in %.1f s", why, details.retry_num + 1, details.wait_for)


# In our words and our log: stamina's own are a line for programs. Whoever set up logging reads them.
stamina.instrumentation.set_on_retry_hooks([_tell_again])
log.addHandler(logging.NullHandler())

T = TypeVar("T")


class MinioStore:
    """A bucket at `endpoint` (`http[s]://host:port`), which must be there already.

    With `ca` (PEM), no other authority's certificate is believed, and no http:// endpoint is entered.
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
        """Write a small object, replacing what is there."""
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
        """Read an object with its etag, or None when its etag is still `etag`: a conditional GET."""
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
        """Size, etag and time of an object."""
        found = self._try(key, lambda: self._client.stat_object(self.bucket, key))
        return _info(key, found.size, found.etag, found.last_modified)

    def list(self, prefix: str, *, most: int | None = None) -> Iterator[ObjectInfo]:
        """Objects below a literal prefix, in the order of their keys; the first `most` of them."""
        checked_prefix(prefix)

        def read() -> list[ObjectInfo]:
            told = (
                _info(found.object_name, found.size, found.etag, found.last_modified)
                for found in self._client.list_objects(self.bucket, prefix=prefix, recursive=True)
                if found.object_name and not found.is_dir and not found.object_name.endswith("/")
            )
            return list(islice(told, most))

        # Not every server lists in the order of keys when a folder and a file share a beginning.
        yield from sorted(self._try(prefix, read, checked=True), key=lambda info: info.key)

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        self._try(key, lambda: self._client.remove_object(self.bucket, key))

    def now(self) -> float:
        """The store's clock, s since 1970, in whole seconds: the Date of any answer, even of a refusal."""

        def read() -> float:
            response = self._http.request("HEAD", f"{self.endpoint}/{self.bucket}")
            return parsedate_to_datetime(response.headers["Date"]).timestamp()

        try:
            return self._try(self.bucket, read, checked=True)
        except (KeyError, TypeError):
            raise ExchangeError(
                f"{self.endpoint} answers without a Date: lateness cannot be judged"
            ) from None

    def _write(self, key: str, source: Callable[[], BinaryIO], size: int) -> ObjectInfo:
        def write() -> ObjectInfo:
            with source() as data:
                # One part at a time: sites send from behind narrow links and with little memory. Only what
                # no single PUT can hold goes in more than one.
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
        """Call with retries where a retry can help; give every failure its fedllm name."""
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
            raise named(error, key, self.endpoint, self.bucket) from None
        raise AssertionError("stamina either returns or raises")  # pragma: no cover


def http_pool(endpoint: str, ca: str | None = None) -> urllib3.PoolManager:
    """Connections that give up in time and never retry by themselves: stamina decides that in one place.

    Args:
        endpoint: where they lead.
        ca: PEM of the only authority that they believe; None: those that this machine believes.

    Raises:
        ConfigError: `ca` is no certificate, or the endpoint would not show one.
    """
    if ca is not None and not endpoint.startswith("https://"):
        raise ConfigError(f"store.endpoint {endpoint!r}: a CA is given for it, so write https://")
    return urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=CONNECT, read=READ),
        retries=False,
        maxsize=10,
        blocksize=1 << 18,  # bytes of a body at once
        ssl_context=trusting(ca) if endpoint.startswith("https://") else None,
    )


def minio_client(
    endpoint: str, region: str, access_key: str | None, secret_key: str | None, http: urllib3.PoolManager
) -> Minio:
    """The SDK's client for `http[s]://host:port`. Raises `ConfigError` when that is no endpoint."""
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
            region=region,  # given: asking the bucket for it would need one more permission
            http_client=http,
        )
    except ValueError as error:
        raise ConfigError(f"store.endpoint {endpoint!r}: {error}") from None


def _chunks(response: BaseHTTPResponse) -> Iterator[bytes]:
    """The bytes as they are stored: a content encoding is never undone, so nothing swells."""
    try:
        while chunk := response.read(CHUNK, decode_content=False):
            yield chunk
    finally:
        response.release_conn()


def _info(key: str | None, size: int | None, etag: str | None, modified: datetime | None) -> ObjectInfo:
    if key is None or size is None or etag is None or modified is None:
        raise ExchangeError(f"{key}: the store does not say its size, etag and time")
    return ObjectInfo(key, size, etag.strip('"'), modified.timestamp())

"""Read and write the objects of a store for a backup: a bucket through S3, or a folder of files."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, unquote, urlsplit

from fedllm.backup.manifest import OBJECTS, Bucket, StoredObject
from fedllm.errors import ObjectNotFoundError
from fedllm.exchange.directory_store import DirectoryStore

if TYPE_CHECKING:
    from minio import Minio

_CHUNK = 1 << 20  # bytes
_PART = 16 << 20  # bytes of an upload held in memory
_META = "x-amz-meta-"
# Characters. Sites choose the metadata of their own objects, and it goes into the list of contents.
_LONGEST_TYPE = 255
_MOST_METADATA = 1024


class BackupStore(Protocol):
    """A store whose objects a backup reads and a restore writes."""

    @property
    def bucket(self) -> Bucket:
        """The store's entry in the list of contents."""

    def keys(self) -> list[str]:
        """List all keys below the bucket's prefix."""

    def fetch(self, key: str, path: Path) -> StoredObject | None:
        """Read an object into a new file and return its metadata; None if it was deleted meanwhile."""

    def put(self, stored: StoredObject, path: Path) -> None:
        """Write an object with its metadata."""

    def delete(self, key: str) -> None:
        """Remove an object."""

    def exists(self) -> bool:
        """Return whether the bucket exists."""

    def make(self) -> None:
        """Create the bucket unless it exists."""


@dataclass(frozen=True)
class BackupBucket:
    """A bucket behind S3."""

    bucket: Bucket
    client: "Minio"

    @property
    def name(self) -> str:
        """The bucket's name at its server."""
        return self.bucket.url.removeprefix("s3://")

    def keys(self) -> list[str]:
        """List all keys below the bucket's prefix."""
        with _translated_errors(self.bucket):
            entries = self.client.list_objects(self.name, prefix=self.bucket.prefix or None, recursive=True)
            return [entry.object_name for entry in entries if entry.object_name and not entry.is_dir]

    def fetch(self, key: str, path: Path) -> StoredObject | None:
        """Read an object into a new file and return its metadata; None if it was deleted meanwhile."""
        with suppress(ObjectNotFoundError), _translated_errors(self.bucket):
            with closing(self.client.get_object(self.name, key)) as response, path.open("xb") as out:
                for chunk in response.stream(_CHUNK, decode_content=False):
                    out.write(chunk)
                headers = {name.lower(): value for name, value in response.headers.items()}
                response.release_conn()
            return _stored_object(self.bucket.folder, key, headers)
        return None

    def put(self, stored: StoredObject, path: Path) -> None:
        """Write an object with its metadata."""
        with _translated_errors(self.bucket), path.open("rb") as data:
            self.client.put_object(
                self.name,
                stored.key,
                data,
                path.stat().st_size,
                content_type=stored.content_type,
                metadata=dict(stored.metadata) or None,
                part_size=_PART,
                num_parallel_uploads=1,
            )

    def delete(self, key: str) -> None:
        """Remove an object."""
        with _translated_errors(self.bucket):
            self.client.remove_object(self.name, key)

    def exists(self) -> bool:
        """Return whether the bucket exists."""
        with _translated_errors(self.bucket):
            return bool(self.client.bucket_exists(self.name))

    def make(self) -> None:
        """Create the bucket unless it exists."""
        if not self.exists():
            with _translated_errors(self.bucket):
                self.client.make_bucket(self.name)


@dataclass(frozen=True)
class BackupFolder:
    """A folder that serves as a store."""

    bucket: Bucket
    inside: DirectoryStore

    def keys(self) -> list[str]:
        """List all keys below the bucket's prefix."""
        return [entry.key for entry in self.inside.list(self.bucket.prefix)]

    def fetch(self, key: str, path: Path) -> StoredObject | None:
        """Read an object into a new file and return its metadata; None if it was deleted meanwhile."""
        with suppress(ObjectNotFoundError):
            self.inside.get_file(key, path, limit=sys.maxsize)
            return StoredObject(
                member=member_name(self.bucket.folder, key), folder=self.bucket.folder, key=key
            )
        return None

    def put(self, stored: StoredObject, path: Path) -> None:
        """Write an object."""
        self.inside.put_file(stored.key, path)

    def delete(self, key: str) -> None:
        """Remove an object."""
        self.inside.delete(key)

    def exists(self) -> bool:
        """Return True: opening the store creates the folder."""
        return True

    def make(self) -> None:
        """Do nothing: opening the store creates the folder."""


def open_bucket(
    bucket: Bucket, access_key: str, secret_key: str, endpoint: str, ca: str | None
) -> BackupBucket:
    """Return a bucket, opened with its administrator's keys; nothing is sent yet."""
    from fedllm.exchange.minio_store import http_pool, minio_client

    pool = http_pool(endpoint, ca)
    return BackupBucket(bucket, minio_client(endpoint, bucket.region, access_key, secret_key, pool))


def open_folder(bucket: Bucket) -> BackupFolder:
    """Return the store at `file:///folder`."""
    return BackupFolder(bucket, DirectoryStore(Path(unquote(urlsplit(bucket.url).path))))


def member_name(folder: str, key: str) -> str:
    """Return an object's member name: its key, percent-quoted if it would be no valid file path."""
    plain = "\\" not in key and not {"", ".", ".."} & set(key.split("/"))
    return f"{OBJECTS}{folder}/{key if plain else quote(key, safe='')}"


def _stored_object(folder: str, key: str, headers: Mapping[str, str]) -> StoredObject:
    """Return an object's metadata from S3's lower-case headers, without values over the length limits."""
    kind = headers.get("content-type", "")
    metadata = {n.removeprefix(_META): v for n, v in headers.items() if n.startswith(_META)}
    return StoredObject(
        member=member_name(folder, key),
        folder=folder,
        key=key,
        content_type=kind if 0 < len(kind) <= _LONGEST_TYPE else "application/octet-stream",
        metadata=metadata if sum(len(n) + len(v) for n, v in metadata.items()) <= _MOST_METADATA else {},
    )


@contextmanager
def _translated_errors(bucket: Bucket) -> Iterator[None]:
    """Turn the SDK's errors in the block into fedllm's; an OSError of the local disk passes unchanged."""
    import urllib3
    from minio.error import MinioException, S3Error

    from fedllm.exchange.failures import exchange_error

    where = f"{bucket.url} at {bucket.endpoint or 'the local stack'}"
    try:
        yield
    except (MinioException, urllib3.exceptions.HTTPError, ValueError) as error:
        if isinstance(error, S3Error) and error.code == "NoSuchKey":
            raise ObjectNotFoundError(f"{error.object_name} is not in {where}") from None
        raise exchange_error(error, where, bucket.endpoint or "the local stack") from None

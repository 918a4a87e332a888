"""Objects of a bucket through S3, with their metadata; of a folder that serves as a store, as its files."""

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
_PART = 16 << 20  # bytes of an upload that are in memory at once
_META = "x-amz-meta-"
# Characters. A site writes its own objects, and what it says of each is in the list of contents.
_LONGEST_TYPE = 255
_MOST_METADATA = 1024


class Shelf(Protocol):
    """A store's objects that can be read and written whole."""

    @property
    def bucket(self) -> Bucket:
        """Which store."""

    def keys(self) -> list[str]:
        """All keys below the bucket's prefix."""

    def fetch(self, key: str, path: Path) -> StoredObject | None:
        """Read an object into a new file; None when it was deleted meanwhile."""

    def store(self, stored: StoredObject, path: Path) -> None:
        """Write an object as it was."""

    def delete(self, key: str) -> None:
        """Remove an object."""

    def exists(self) -> bool:
        """Whether the bucket is there."""

    def make(self) -> None:
        """Make the bucket unless it is there."""


@dataclass(frozen=True)
class BucketShelf:
    """A bucket that can be entered."""

    bucket: Bucket
    client: "Minio"

    @property
    def name(self) -> str:
        """The bucket's name at its server."""
        return self.bucket.url.removeprefix("s3://")

    def keys(self) -> list[str]:
        """All keys below the bucket's prefix."""
        with _explained(self.bucket):
            found = self.client.list_objects(self.name, prefix=self.bucket.prefix or None, recursive=True)
            return [entry.object_name for entry in found if entry.object_name and not entry.is_dir]

    def fetch(self, key: str, path: Path) -> StoredObject | None:
        """Read an object into a new file; None when it was deleted meanwhile."""
        with suppress(ObjectNotFoundError), _explained(self.bucket):
            with closing(self.client.get_object(self.name, key)) as response, path.open("xb") as out:
                for chunk in response.stream(_CHUNK, decode_content=False):
                    out.write(chunk)
                told = {name.lower(): value for name, value in response.headers.items()}
                response.release_conn()
            return _stored(self.bucket.folder, key, told)
        return None

    def store(self, stored: StoredObject, path: Path) -> None:
        """Write an object as it was."""
        with _explained(self.bucket), path.open("rb") as data:
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
        with _explained(self.bucket):
            self.client.remove_object(self.name, key)

    def exists(self) -> bool:
        """Whether the bucket is there."""
        with _explained(self.bucket):
            return bool(self.client.bucket_exists(self.name))

    def make(self) -> None:
        """Make the bucket unless it is there."""
        if not self.exists():
            with _explained(self.bucket):
                self.client.make_bucket(self.name)


@dataclass(frozen=True)
class FolderShelf:
    """A folder that serves as a store."""

    bucket: Bucket
    inside: DirectoryStore

    def keys(self) -> list[str]:
        """All keys below the bucket's prefix."""
        return [entry.key for entry in self.inside.list(self.bucket.prefix)]

    def fetch(self, key: str, path: Path) -> StoredObject | None:
        """Read an object into a new file; None when it was deleted meanwhile."""
        with suppress(ObjectNotFoundError):
            self.inside.get_file(key, path, limit=sys.maxsize)
            return StoredObject(
                member=member_name(self.bucket.folder, key), folder=self.bucket.folder, key=key
            )
        return None

    def store(self, stored: StoredObject, path: Path) -> None:
        """Write an object as it was."""
        self.inside.put_file(stored.key, path)

    def delete(self, key: str) -> None:
        """Remove an object."""
        self.inside.delete(key)

    def exists(self) -> bool:
        """It is, as soon as it is entered."""
        return True

    def make(self) -> None:
        """The folder is made as soon as it is entered."""


def enter(bucket: Bucket, access_key: str, secret_key: str, endpoint: str, ca: str | None) -> BucketShelf:
    """Enter a bucket with its administrator's keys; nothing is sent yet."""
    from fedllm.exchange.minio_store import http_pool, minio_client

    pool = http_pool(endpoint, ca)
    return BucketShelf(bucket, minio_client(endpoint, bucket.region, access_key, secret_key, pool))


def enter_folder(bucket: Bucket) -> FolderShelf:
    """Enter a `file:///folder` store."""
    return FolderShelf(bucket, DirectoryStore(Path(unquote(urlsplit(bucket.url).path))))


def member_name(folder: str, key: str) -> str:
    """An object's name in the archive: its key, quoted whole where it could not be a file's path."""
    plain = "\\" not in key and not {"", ".", ".."} & set(key.split("/"))
    return f"{OBJECTS}{folder}/{key if plain else quote(key, safe='')}"


def _stored(folder: str, key: str, told: Mapping[str, str]) -> StoredObject:
    """What S3's headers, in small letters, tell of an object; without what is longer than any use of it."""
    kind = told.get("content-type", "")
    metadata = {n.removeprefix(_META): v for n, v in told.items() if n.startswith(_META)}
    return StoredObject(
        member=member_name(folder, key),
        folder=folder,
        key=key,
        content_type=kind if 0 < len(kind) <= _LONGEST_TYPE else "application/octet-stream",
        metadata=metadata if sum(len(n) + len(v) for n, v in metadata.items()) <= _MOST_METADATA else {},
    )


@contextmanager
def _explained(bucket: Bucket) -> Iterator[None]:
    import urllib3
    from minio.error import MinioException, S3Error

    from fedllm.exchange.failures import exchange_error

    where = f"{bucket.url} at {bucket.endpoint or 'the local stack'}"
    try:
        yield
    except (MinioException, urllib3.exceptions.HTTPError, ValueError) as error:  # a disk's OSError is not its
        if isinstance(error, S3Error) and error.code == "NoSuchKey":
            raise ObjectNotFoundError(f"{error.object_name} is not in {where}") from None
        raise exchange_error(error, where, bucket.endpoint or "the local stack") from None

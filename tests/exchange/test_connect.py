"""From an address to a store."""

from pathlib import Path

import pytest

from fedllm.errors import ConfigError
from fedllm.exchange.connect import connect
from fedllm.exchange.directory_store import DirectoryStore
from fedllm.exchange.minio_store import MinioStore
from fedllm.stack.minio import MinioServer


def test_a_bucket_is_reached_by_its_address(minio_server: MinioServer, bucket: str) -> None:
    store = connect(
        f"s3://{bucket}",
        minio_server.endpoint,
        access_key=minio_server.access_key,
        secret_key=minio_server.secret_key,
    )
    assert isinstance(store, MinioStore)
    assert store.get_if_changed("fed/a", store.put("fed/a", b"1").etag, limit=1) is None


def test_a_folder_is_reached_by_its_address(tmp_path: Path) -> None:
    store = connect(f"file://{tmp_path}/with%20space")
    assert isinstance(store, DirectoryStore)
    store.put("fed/a", b"1")
    assert (tmp_path / "with space" / "fed" / "a").read_bytes() == b"1"


@pytest.mark.parametrize(
    ("url", "endpoint", "secret", "reason"),
    [
        ("ftp://x", None, "k", "use s3://bucket"),
        ("bucket", None, "k", "use s3://bucket"),
        ("file://relative/folder", None, "k", "absolute"),
        ("s3://", "http://h:1", "k", "bucket's name"),
        ("s3://bucket/with/path", "http://h:1", "k", "bucket's name"),
        ("s3://UPPER", "http://h:1", "k", "bucket's name"),
        ("s3://bucket", None, "k", "store.endpoint"),
        ("s3://bucket", "h:1", "k", "https://host:port"),
        ("s3://bucket", "http://h:1", None, "secret key"),
    ],
)
def test_an_address_that_means_nothing_is_refused(
    url: str, endpoint: str | None, secret: str | None, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        connect(url, endpoint, access_key="a", secret_key=secret)

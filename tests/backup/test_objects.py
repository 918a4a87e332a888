"""A bucket's objects through S3, on a real MinIO."""

import io
from pathlib import Path

import pytest
from minio import Minio

from fedllm.backup.manifest import Bucket
from fedllm.backup.objects import member_name, open_bucket
from fedllm.backup.stores import local_stores, own_buckets, refuse_non_empty
from fedllm.errors import BackupError, ExchangeError
from fedllm.stack.minio import MinioServer, ensure_bucket

ODD = "mlflow/1/ä b/adapter+x=1.bin"


def test_objects_come_back_with_their_bytes_type_and_metadata(
    minio_server: MinioServer, bucket: str, tmp_path: Path
) -> None:
    keys = (minio_server.access_key, minio_server.secret_key)
    client = Minio(minio_server.endpoint.removeprefix("http://"), *keys, secure=False, region="us-east-1")
    bodies = {"test/head.json": b"{}", ODD: b"\0" * 3_000_000, "test/empty": b""}
    for key, body in bodies.items():
        client.put_object(
            bucket, key, io.BytesIO(body), len(body), content_type="text/x-kept", metadata={"of": "round-1"}
        )
    first = open_bucket(
        Bucket(folder="a", url=f"s3://{bucket}", own=True), *keys, minio_server.endpoint, None
    )
    second = open_bucket(
        Bucket(folder="a", url=f"s3://{bucket}-2", own=True), *keys, minio_server.endpoint, None
    )
    assert not second.exists()
    second.make()
    refuse_non_empty(second)
    assert set(first.keys()) == set(bodies)
    for number, key in enumerate(bodies):
        stored = first.fetch(key, tmp_path / str(number))
        assert stored is not None
        second.put(stored, tmp_path / str(number))
    for key, body in bodies.items():
        found = client.get_object(f"{bucket}-2", key)
        assert found.read() == body
        assert found.headers["content-type"] == "text/x-kept"
        assert found.headers["x-amz-meta-of"] == "round-1"
        found.close()
    with pytest.raises(BackupError, match="--keep-objects"):
        refuse_non_empty(second)


def test_what_is_told_of_an_object_at_a_length_that_serves_no_use_is_not_kept(
    minio_server: MinioServer, bucket: str, tmp_path: Path
) -> None:
    """As by a site that would have every backup's list of contents too long to be read."""
    keys = (minio_server.access_key, minio_server.secret_key)
    client = Minio(minio_server.endpoint.removeprefix("http://"), *keys, secure=False, region="us-east-1")
    told = {
        "plain": ("text/" + "x" * 250, {"of": "x" * 1022}),
        "bloated": ("text/" + "x" * 251, {"of": "x" * 1023}),
    }
    for key, (kind, metadata) in told.items():
        client.put_object(bucket, key, io.BytesIO(b"x"), 1, content_type=kind, metadata=dict(metadata))
    store = open_bucket(
        Bucket(folder="a", url=f"s3://{bucket}", own=True), *keys, minio_server.endpoint, None
    )
    found = [store.fetch(key, tmp_path / key) for key in told]
    assert [(one.content_type, one.metadata) for one in found if one] == [
        told["plain"],
        ("application/octet-stream", {}),
    ]


def test_an_object_that_was_deleted_meanwhile_is_passed_over_and_a_wrong_key_is_not(
    minio_server: MinioServer, bucket: str, tmp_path: Path
) -> None:
    keys = (minio_server.access_key, minio_server.secret_key)
    store = open_bucket(
        Bucket(folder="a", url=f"s3://{bucket}", own=True), *keys, minio_server.endpoint, None
    )
    assert store.fetch("test/gone", tmp_path / "gone") is None
    wrong = open_bucket(
        Bucket(folder="a", url=f"s3://{bucket}", own=True), keys[0], "wrong", minio_server.endpoint, None
    )
    with pytest.raises(ExchangeError, match="the store refused"):
        wrong.keys()
    away = open_bucket(Bucket(folder="a", url=f"s3://{bucket}", own=True), *keys, "http://127.0.0.1:9", None)
    with pytest.raises(ExchangeError, match="does not answer"):
        away.keys()


@pytest.mark.servers
def test_the_stacks_own_buckets_are_entered_also_while_the_stack_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "home"))
    with local_stores(own_buckets()) as none:
        assert none == []
    (tmp_path / "home" / "stack").mkdir(parents=True)
    with MinioServer(tmp_path / "home" / "stack" / "minio") as server:
        ensure_bucket(server.endpoint, "fedllm", server.access_key, server.secret_key)
        Minio(
            server.endpoint.removeprefix("http://"), server.access_key, server.secret_key, secure=False
        ).put_object("fedllm", "test/a", io.BytesIO(b"a"), 1)
    with local_stores(own_buckets()) as (store,):  # mlflow was never made
        assert list(store.keys()) == ["test/a"]


@pytest.mark.parametrize("key", ["../outside", "a//b", "/etc/passwd", "a/./b", "a\\b", "a/"])
def test_a_key_that_is_no_files_path_is_quoted_whole(key: str) -> None:
    name = member_name("fedllm", key)
    assert name.startswith("objects/fedllm/")
    assert name.count("/") == 2
    assert member_name("fedllm", "test/head.json") == "objects/fedllm/test/head.json"

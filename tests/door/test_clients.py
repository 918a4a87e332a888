"""What a site's clients do through the door: all of a site's work, and no more of S3."""

import random
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import botocore.exceptions
import pytest
import urllib3
from botocore.config import Config

from fedllm.errors import AccessDeniedError, ExchangeError, ObjectNotFoundError
from fedllm.exchange.minio_store import MinioStore
from fedllm.secure.ca import server_certificate
from fedllm.secure.trust import read_ca
from fedllm.stack.door import Door
from fedllm.stack.minio import MinioServer, ensure_bucket, free_port
from tests.door.conftest import opened
from tests.door.planted import BUCKET, HEAD, ME, OTHER

if TYPE_CHECKING:
    from collections.abc import Callable


def client(endpoint: str, keys: tuple[str, str], **config: Any) -> Any:  # noqa: ANN401 - boto3 is untyped
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=keys[0],
        aws_secret_access_key=keys[1],
        region_name="us-east-1",
        config=Config(
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"},
            retries={"max_attempts": 1},
            **config,
        ),
    )


@pytest.mark.usefixtures("unharmed")
def test_another_client_reads_and_writes_objects_and_nothing_else(door: str, keys: tuple[str, str]) -> None:
    s3, mine = client(door, keys), {"Bucket": BUCKET, "Key": f"{ME}/boto"}
    s3.put_object(**mine, Body=b"mine")
    assert s3.get_object(**mine)["Body"].read() == b"mine"
    assert s3.head_object(**mine)["ContentLength"] == len(b"mine")
    theirs = {"Bucket": BUCKET, "Key": f"{OTHER}/card.json"}
    refused: list[Callable[[], object]] = [
        partial(s3.get_object, **theirs),
        partial(s3.put_object, **theirs, Body=b"forged"),
        partial(s3.delete_object, **mine),
        partial(s3.delete_objects, Bucket=BUCKET, Delete={"Objects": [{"Key": theirs["Key"]}]}),
        partial(s3.list_objects_v2, Bucket=BUCKET),
        partial(s3.list_objects_v2, Bucket=BUCKET, Prefix=f"{ME}/"),
        partial(s3.copy_object, **mine, CopySource=theirs),
        partial(s3.create_multipart_upload, **mine),
        partial(s3.list_multipart_uploads, Bucket=BUCKET),
        partial(s3.put_bucket_policy, Bucket=BUCKET, Policy="{}"),
        partial(s3.get_object_attributes, **mine, ObjectAttributes=["ETag"]),
        s3.list_buckets,
        partial(s3.create_bucket, Bucket="new"),
    ]
    for call in refused:
        with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
            call()
    shared = s3.generate_presigned_url("get_object", Params=mine)
    assert urllib3.request("GET", shared, retries=False).status == 403, (
        "keys in an address are written to logs"
    )


@pytest.mark.usefixtures("unharmed")
def test_a_site_does_all_its_work_through_the_door(store: MinioStore, tmp_path: Path) -> None:
    assert store.get(HEAD, limit=99) == b"head"
    _, etag = store.get_if_changed(HEAD, None, limit=99) or (b"", "")
    assert store.get_if_changed(HEAD, etag, limit=99) is None
    assert store.stat(HEAD).size == len(b"head")
    large = tmp_path / "large"
    large.write_bytes(random.Random(1).randbytes(20 << 20))
    before = int(time.time())
    assert before <= store.put_file(f"{ME}/r/1/update.bin", large).modified <= time.time()
    assert store.get_file(f"{ME}/r/1/update.bin", tmp_path / "back", limit=1 << 30)
    assert (tmp_path / "back").read_bytes() == large.read_bytes()
    assert before <= store.now() <= time.time()
    with pytest.raises(ObjectNotFoundError):
        store.get("fed/coordinator/none", limit=9)
    with pytest.raises(AccessDeniedError):
        store.get(f"{OTHER}/card.json", limit=99)


@pytest.mark.servers
def test_tls_ends_at_the_door_and_begins_again_behind_it(tmp_path: Path) -> None:
    ours, other = (server_certificate(tmp_path / name) for name in ("ours", "other"))
    with MinioServer(tmp_path / "minio", certificate=ours) as server:
        keys = (server.access_key, server.secret_key)
        ensure_bucket(server.endpoint, BUCKET, *keys, ca=read_ca(ours.ca))
        for name, believed in (("right", ours), ("wrong", other)):
            folder = tmp_path / name
            folder.mkdir()
            here = f"127.0.0.1:{free_port()}"
            tls = {"certificate": ours.certificate, "key": ours.key, "store_ca": believed.ca}
            with opened(Door(here, server.endpoint, BUCKET, **tls), folder) as address:
                sites = MinioStore(
                    address, BUCKET, access_key=keys[0], secret_key=keys[1], ca=read_ca(ours.ca), attempts=1
                )
                if believed is ours:
                    sites.put(f"{ME}/card.json", b"mine")
                    assert sites.get(f"{ME}/card.json", limit=9) == b"mine"
                else:
                    with pytest.raises(ExchangeError, match="does not answer"):
                        sites.get(f"{ME}/card.json", limit=9)


def test_an_object_larger_than_the_door_takes_is_refused_in_a_line(store: MinioStore, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(ExchangeError, match=r"the store does not accept an object of 68157440 bytes"):
        store.put_file(f"{ME}/large", large)

"""What the doctor says of a store and its users, on a real server."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedllm.coordinator.members import StoreAccess
from fedllm.doctor.exchange import site_users, store
from fedllm.doctor.finding import Finding, tried
from fedllm.exchange.iam import MinioIam, site_policy
from fedllm.exchange.minio_store import MinioStore
from fedllm.stack.minio import MinioServer

FED = "looked-at"


@pytest.fixture
def access(minio_server: MinioServer, bucket: str) -> Callable[..., StoreAccess]:
    def made(**changes: str) -> StoreAccess:
        told = {
            "url": f"s3://{bucket}",
            "endpoint": minio_server.endpoint,
            "region": "us-east-1",
            "access_key": minio_server.access_key,
            "secret_key": minio_server.secret_key,
        }
        return StoreAccess(**{**told, **changes})

    return made


@pytest.fixture
def iam(minio_server: MinioServer, bucket: str) -> MinioIam:
    """The bucket's users; none is left from the test before."""
    found = MinioIam(minio_server.endpoint, minio_server.access_key, minio_server.secret_key, bucket)
    for name in found.users().keys() | found.policies().keys():
        if name.startswith(f"{FED}."):
            found.remove_site(FED, name.partition(".")[2])
    return found


def looked(access: StoreAccess) -> Finding:
    (found,) = tried("store", "", lambda: store(access, FED))
    return found


def users(access: StoreAccess, *sites: str) -> Finding:
    (found,) = tried("site users", "", lambda: site_users(access, FED, sites))
    return found


def test_the_probe_is_written_read_and_removed(
    access: Callable[..., StoreAccess], minio_store: MinioStore
) -> None:
    found = looked(access())
    assert (found.status, "written, read and removed" in found.detail) == ("ok", True)
    assert list(minio_store.list("")) == []


def test_a_bucket_that_is_not_there_wrong_keys_and_a_server_that_is_away_are_told_apart(
    access: Callable[..., StoreAccess],
) -> None:
    bucket = looked(access(url="s3://no-such-bucket"))
    assert (bucket.status, "create its bucket" in bucket.remedy) == ("fail", True)
    keys = looked(access(secret_key="wrong" * 4))
    assert (keys.status, "FEDLLM_SECRET_KEY" in keys.remedy) == ("fail", True)
    away = looked(access(endpoint="http://127.0.0.1:1"))
    assert (away.status, "start the store" in away.remedy) == ("fail", True)


def test_keys_that_may_not_write_as_the_coordinator_are_refused_by_the_store_itself(
    access: Callable[..., StoreAccess], iam: MinioIam
) -> None:
    key, secret = iam.add_site(FED, "amazon")
    found = looked(access(access_key=key, secret_key=secret))
    assert (found.status, "AccessDenied" in found.detail) == ("fail", True)
    told = users(access(access_key=key, secret_key=secret), "amazon")
    assert (told.status, "may not manage users" in told.detail) == ("warn", True)


def test_users_are_well_when_each_site_has_exactly_its_own_policy(
    access: Callable[..., StoreAccess], iam: MinioIam
) -> None:
    for site in ("amazon", "movies"):
        iam.add_site(FED, site)
    assert users(access(), "amazon", "movies").status == "ok"


def test_a_policy_that_drifted_is_named_with_what_it_allows_beyond(
    access: Callable[..., StoreAccess], iam: MinioIam, bucket: str
) -> None:
    iam.add_site(FED, "amazon")
    wide = site_policy(bucket, FED, "amazon")
    wide["Statement"].append(
        {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [f"arn:aws:s3:::{bucket}"]}
    )
    iam._admin.policy_add(f"{FED}.amazon", policy=wide)
    found = users(access(), "amazon")
    assert found.status == "fail"
    assert f"{FED}.amazon" in found.detail
    assert "s3:ListBucket" in found.detail
    narrow = json.loads(json.dumps(site_policy(bucket, FED, "amazon")))
    narrow["Statement"].pop()
    iam._admin.policy_add(f"{FED}.amazon", policy=narrow)
    assert "a statement is missing" in users(access(), "amazon").detail


def test_a_missing_a_disabled_and_a_strangers_user_and_one_with_anothers_policy_are_named(
    access: Callable[..., StoreAccess], iam: MinioIam
) -> None:
    for site in ("amazon", "movies", "stranger"):
        iam.add_site(FED, site)
    assert f"{FED}.nyt is missing" in users(access(), "amazon", "movies", "stranger", "nyt").detail
    found = users(access(), "amazon", "movies")
    assert (found.status, found.detail) == ("fail", f"not in the roster: {FED}.stranger")
    iam._admin.policy_set(f"{FED}.movies", user=f"{FED}.amazon")
    assert (
        f"{FED}.amazon has the policy {FED}.movies" in users(access(), "amazon", "movies", "stranger").detail
    )
    iam._admin.user_disable(f"{FED}.movies")
    assert f"{FED}.movies has the policy of nobody" in users(access(), "movies", "stranger").detail


def test_a_folder_has_no_users_and_is_not_made(tmp_path: Path) -> None:
    access = StoreAccess(f"file://{tmp_path / 'store'}", None, "us-east-1", None, None)
    assert "made at first use" in looked(access).detail
    assert not (tmp_path / "store").exists()
    assert users(access, "amazon").status == "ok"
    (tmp_path / "store").mkdir()
    assert looked(access).status == "ok"

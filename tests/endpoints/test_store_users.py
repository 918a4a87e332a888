"""The users that `fedllm up` makes in the store: what each may do, and what none may."""

import json
import stat
from pathlib import Path

import pytest
from minio import MinioAdmin
from minio.credentials.providers import StaticProvider

from fedllm.coordinator.members import StoreAccess
from fedllm.doctor.exchange import site_users
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.endpoints.store_users import BUCKET, MLFLOW_BUCKET, StoreSecrets, store_secrets
from fedllm.errors import AccessDeniedError, StackError
from fedllm.exchange.iam import MinioIam
from fedllm.exchange.minio_store import MinioStore
from fedllm.stack.minio import MinioServer
from fedllm.stack.provision import Provisioner


@pytest.fixture
def users(minio_server: MinioServer) -> dict[str, tuple[str, str]]:
    wanted = StoreSecrets().users()
    root = (minio_server.access_key, minio_server.secret_key)
    Provisioner(minio_server.endpoint, root).provide(wanted)
    return {user.name.removeprefix("fedllm-"): (user.name, user.secret) for user in wanted}


def test_no_user_but_the_registrar_administrates_and_each_has_its_own_bucket(
    minio_server: MinioServer, users: dict[str, tuple[str, str]]
) -> None:
    here = minio_server.endpoint
    for name, (access, secret) in users.items():
        own, other = (BUCKET, MLFLOW_BUCKET) if name != "mlflow" else (MLFLOW_BUCKET, BUCKET)
        MinioStore(here, own, access_key=access, secret_key=secret).put("x", b"x")
        foreign = MinioStore(here, other, access_key=access, secret_key=secret)
        for ask in (lambda: foreign.put("y", b"y"), lambda: foreign.get("x", limit=9)):  # noqa: B023 - used here
            with pytest.raises(AccessDeniedError):
                ask()
        iam = MinioIam(here, access, secret, BUCKET)
        if name == "registrar":
            iam.add_site("fed", "harbour")
            iam.remove_site("fed", "harbour")
        else:
            with pytest.raises(AccessDeniedError):
                iam.add_site("fed", "harbour")


def test_provisioning_again_changes_nothing_and_heals_a_changed_secret(minio_server: MinioServer) -> None:
    there = Provisioner(minio_server.endpoint, (minio_server.access_key, minio_server.secret_key))
    drawn = StoreSecrets()
    there.provide(drawn.users())
    assert there.provide(drawn.users()) == []
    other = StoreSecrets(drawn.coordinator, drawn.registrar)
    assert there.provide(other.users()) == ["user fedllm-mlflow"]


def test_secrets_are_drawn_once_and_are_their_owners_alone(tmp_path: Path) -> None:
    place = StackPaths(tmp_path)
    place.create()
    drawn = store_secrets(place)
    assert store_secrets(place) == drawn
    assert len({drawn.coordinator, drawn.registrar, drawn.mlflow}) == 3
    assert drawn.coordinator not in repr(drawn)
    path = place.folder / "store-users.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text(json.dumps({"someone": "else"}))
    with pytest.raises(StackError, match="damaged"):
        store_secrets(place)


def test_the_doctor_names_users_with_more_power_than_theirs(
    minio_server: MinioServer, users: dict[str, tuple[str, str]]
) -> None:
    access = StoreAccess(
        f"s3://{BUCKET}",
        minio_server.endpoint,
        "us-east-1",
        *users["coordinator"],
        registrar=users["registrar"],
    )
    root = (minio_server.access_key, minio_server.secret_key)
    iam = MinioIam(minio_server.endpoint, *users["registrar"], BUCKET)
    iam.add_site("empowered", "harbour")
    iam.add_site("other", "mill")
    admin = MinioAdmin(
        endpoint=minio_server.endpoint.removeprefix("http://"),
        credentials=StaticProvider(*root),
        secure=False,
    )

    def found() -> dict[str, str]:
        told = site_users(access, "empowered", ["harbour"])
        return {finding.name: f"{finding.status}: {finding.detail}" for finding in told}

    try:
        before = found()
        assert before["site users"].startswith("ok: 1, each")
        assert "mill" not in before.get("store users", "")
        admin.user_add("mallory", "y" * 40)
        for name, policy in (
            ("mallory", "consoleAdmin"),
            ("other.mill", "readwrite"),
            ("fedllm-mlflow", "writeonly"),
        ):
            admin.policy_set(policy, user=name)
        after = found()["store users"]
        assert after.startswith("fail: too many rights: ")
        assert "mallory has the policy consoleAdmin" in after
        assert "other.mill has the policy readwrite" in after
        assert "fedllm-mlflow has the policy writeonly" in after
        admin.policy_set("readwrite", user="empowered.harbour")
        assert found()["site users"] == "fail: empowered.harbour has the policy readwrite"
    finally:
        admin.user_remove("mallory")
        admin.policy_set("fedllm-mlflow", user="fedllm-mlflow")
        iam.remove_site("empowered", "harbour")
        iam.remove_site("other", "mill")

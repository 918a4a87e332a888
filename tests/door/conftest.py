"""A store with two sites' objects, the door before it, and one of the sites with its keys."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from raw_s3 import Party

from fedllm.exchange.iam import MinioIam
from fedllm.exchange.minio_store import MinioStore
from fedllm.stack.door import Door, door_command
from fedllm.stack.minio import MinioServer, ensure_bucket, free_port
from tests.door.planted import BUCKET, HEAD, ME, PLANTED, SECRET


@pytest.fixture(scope="session")
def root(minio_server: MinioServer) -> MinioStore:
    keys = (minio_server.access_key, minio_server.secret_key)
    ensure_bucket(minio_server.endpoint, BUCKET, *keys)
    store = MinioStore(minio_server.endpoint, BUCKET, access_key=keys[0], secret_key=keys[1])
    for key in PLANTED:
        store.put(key, SECRET)
    store.put(HEAD, b"head")
    return store


@contextmanager
def opened(door: Door, folder: Path) -> Iterator[str]:
    """A door for the time of the block, by its address."""
    scheme = "https" if door.certificate else "http"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(door_command(door, folder), stdout=log, stderr=log)
    try:
        for _ in range(600):
            assert process.poll() is None, (folder / "log").read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", int(door.listen.rpartition(":")[2]))) == 0:
                    break
            time.sleep(0.1)
        yield f"{scheme}://{door.listen}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def door(minio_server: MinioServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    here = Door(f"127.0.0.1:{free_port()}", minio_server.endpoint, BUCKET, "64m")
    with opened(here, tmp_path_factory.mktemp("door")) as address:
        yield address


@pytest.fixture(scope="session")
def keys(minio_server: MinioServer, root: MinioStore) -> Iterator[tuple[str, str]]:
    iam = MinioIam(minio_server.endpoint, minio_server.access_key, minio_server.secret_key, root.bucket)
    yield iam.add_site("fed", "alpha")
    iam.remove_site("fed", "alpha")


@pytest.fixture(params=["door", "server"])
def way(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def alpha(way: str, door: str, minio_server: MinioServer, keys: tuple[str, str]) -> Party:
    """A site at the door, or at the server that it should never reach."""
    return Party(door if way == "door" else minio_server.endpoint, *keys, BUCKET)


@pytest.fixture
def store(door: str, keys: tuple[str, str]) -> MinioStore:
    return MinioStore(door, BUCKET, access_key=keys[0], secret_key=keys[1])


@pytest.fixture
def unharmed(root: MinioStore, minio_server: MinioServer) -> Iterator[None]:
    """What is another's is as it was, nothing of theirs is new, and nobody has more rights."""
    yield
    found = {info.key: info.size for info in root.list("")}
    assert {key: found.get(key) for key in PLANTED} == dict.fromkeys(PLANTED, len(SECRET))
    assert found[HEAD] == len(b"head")
    assert [key for key in found if key not in {*PLANTED, HEAD} and not key.startswith(f"{ME}/")] == []
    admin = MinioIam(minio_server.endpoint, minio_server.access_key, minio_server.secret_key, BUCKET)
    assert not any("admin" in policies.lower() for policies in admin.users().values())

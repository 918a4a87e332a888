"""What all tests share: a home of their own, real servers on loopback, and no way off this machine."""

import ipaddress
import logging
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["tests.tiers", "tests.long_tests", "tests.browser", "tests.mlflow_record"]

# Before any import of fedllm or of a library that reads its environment once. The cache stays where it was:
# a converted base model is worth keeping over sessions.
os.environ.setdefault("FEDLLM_CACHE", str(Path("~/.fedllm/cache").expanduser()))
_HOME = tempfile.mkdtemp(prefix="fedllm-tests-")
os.environ.update(
    FEDLLM_HOME=str(Path(_HOME) / "home"),
    DO_NOT_TRACK="1",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    HF_HUB_OFFLINE="1",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
)

from fedllm.exchange.directory_store import DirectoryStore  # noqa: E402 - after the environment
from fedllm.exchange.minio_store import MinioStore  # noqa: E402 - after the environment
from fedllm.stack.minio import MinioServer, ensure_bucket  # noqa: E402 - after the environment


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


class LeftTheMachineError(OSError):
    """A test reached for another machine."""


def _local(family: int, address: Any) -> bool:  # noqa: ANN401 - whatever a socket takes
    if family not in {socket.AF_INET, socket.AF_INET6}:
        return True
    host = address[0]
    if host in {"", "localhost"}:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def stay_on_this_machine() -> Iterator[None]:
    """Sockets reach loopback and Unix alone, in this process."""
    guarded = {name: getattr(socket.socket, name) for name in ("connect", "connect_ex")}

    def guard(name: str) -> Any:  # noqa: ANN401 - a method
        def method(self: socket.socket, address: Any) -> Any:  # noqa: ANN401 - as the original
            if not _local(self.family, address):
                raise LeftTheMachineError(f"a test may not connect to {address}")
            return guarded[name](self, address)

        return method

    with pytest.MonkeyPatch.context() as patch:
        for name in guarded:
            patch.setattr(socket.socket, name, guard(name))
        yield


@pytest.fixture(autouse=True)
def log_handlers_as_before() -> Iterator[None]:
    """Handlers that a test leaves behind would write to its own stderr, which is closed after it.

    Inside a flow they would recurse: Prefect logs what `logging` prints about such a failure.
    """

    def loggers() -> list[logging.Logger]:
        named = logging.root.manager.loggerDict.values()
        return [logging.root, *(one for one in named if isinstance(one, logging.Logger))]

    before = {one: list(one.handlers) for one in loggers()}
    yield
    for one in loggers():
        one.handlers[:] = before.get(one, [])


@pytest.fixture(scope="session")
def minio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinioServer]:
    """A real server on loopback, for the whole session."""
    with MinioServer(tmp_path_factory.mktemp("minio")) as server:
        yield server


@pytest.fixture
def bucket(minio_server: MinioServer) -> str:
    """A bucket of the test's own."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    ensure_bucket(minio_server.endpoint, name, minio_server.access_key, minio_server.secret_key)
    return name


@pytest.fixture
def minio_store(minio_server: MinioServer, bucket: str) -> MinioStore:
    """The test's bucket, entered by root."""
    return MinioStore(
        minio_server.endpoint,
        bucket,
        access_key=minio_server.access_key,
        secret_key=minio_server.secret_key,
    )


@pytest.fixture
def directory_store(tmp_path: Path) -> DirectoryStore:
    """A folder of the test's own."""
    return DirectoryStore(tmp_path / "store")

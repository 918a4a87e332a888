"""Two accounts of one machine, each with its own stack: neither is in the other's way."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedllm.endpoints.stack_paths import StackPaths
from fedllm.endpoints.state import StackState
from fedllm.stack.health import PrefectApi, wait_until
from fedllm.stack.programs import POOL, WORKER, base_environment, programs
from tests.other_account import as_other, give, why_not

pytestmark = pytest.mark.servers

NOT_HERE = why_not()


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder as a home is: pytest's own have names of a length that sockets have no room for."""
    folder = Path(tempfile.mkdtemp())
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(NOT_HERE is not None, reason=str(NOT_HERE))
def test_another_accounts_worker_starts_beside_the_folders_of_the_first(
    prefect: tuple[str, Path], short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = short / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "runner_storage").mkdir(mode=0o700)  # the first account's worker has left it there
    monkeypatch.setenv("TMPDIR", str(shared))
    monkeypatch.setenv("HOME", str(short / "second"))
    monkeypatch.setenv("FEDLLM_HOME", str(short / "second" / "home"))
    place = StackPaths.here()
    place.create()
    place.empty_temporary()
    give(short / "second")
    url, _ = prefect
    state = StackState(ports={"minio": 1, "door": 3, "mlflow": 2}, external_prefect=url)
    [worker] = [program for program in programs(place, state) if program.name == "worker"]
    give(place.home)
    api = PrefectApi(url)
    api.ensure_pool(POOL)
    log = short / "worker.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            as_other(*worker.argv),
            env=base_environment(place, own_prefect=False) | worker.env,
            cwd=place.folder,
            stdout=file,
            stderr=file,
        )

    def alive() -> None:
        assert process.poll() is None, log.read_text()[-2000:]

    try:
        wait_until("worker", lambda: api.heartbeat(POOL, WORKER) is not None, alive, 300)
    finally:
        process.kill()
        process.wait()
    assert sorted(path.name for path in shared.iterdir()) == ["runner_storage"]
    assert list((shared / "runner_storage").iterdir()) == []


def test_temporary_files_are_the_owners_alone_and_go_with_the_next_start(short: Path) -> None:
    place = StackPaths(short)
    place.create()
    place.empty_temporary()
    folder = Path(base_environment(place, own_prefect=True)["TMPDIR"])
    assert folder.is_relative_to(place.folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "fedllm-left").mkdir()
    place.empty_temporary()
    assert list(folder.iterdir()) == []
    place.discard_temporary()
    assert not folder.exists()


def test_below_a_long_home_a_socket_still_fits_into_the_temporary_folder(tmp_path: Path) -> None:
    place = StackPaths(tmp_path / ("long" * 40))
    folder = place.temporary()
    try:
        assert len(os.fsencode(folder / "pymp-12345678" / "listener-12345678")) < 107
        assert folder.parent.stat().st_mode & 0o077 == 0
        assert folder.parent.stat().st_uid == os.getuid()
        place.empty_temporary()
    finally:
        place.discard_temporary()
    assert not folder.parent.exists()


def test_a_flow_finds_supervisord_of_a_long_home_whatever_its_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = StackPaths(tmp_path / ("long" * 40))
    outside = place.socket()
    try:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # as in a process of the stack
        monkeypatch.setattr("os.environ", os.environ | {"TMPDIR": str(tmp_path)})
        assert place.socket() == outside
    finally:
        outside.parent.rmdir()

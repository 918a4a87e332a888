"""Prefect's server on SQLite: a lock that somebody holds stops it for seconds, not for a minute."""

import sqlite3
import subprocess
import time
import urllib.error
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fedllm.stack import prefect_server
from fedllm.stack.health import answers, http, wait_until
from fedllm.stack.place import Place, StackState
from fedllm.stack.programs import base_environment, programs
from tests.own_ports import own_ports

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The server alone, started as the stack starts it; its address and its database."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLLM_HOME", str(tmp_path_factory.mktemp("home")))
        place = Place.here()
        place.create()
        state = StackState(ports=own_ports(26_000))
        [found] = [program for program in programs(place, state) if program.name == "prefect"]
        env = base_environment(place, own_prefect=True) | found.env
    process = subprocess.Popen(found.argv, env=env)

    def check() -> None:
        assert process.poll() is None

    try:
        wait_until("prefect", lambda: answers(f"{state.own_prefect_url}/health"), check, 300)
        yield state.own_prefect_url, place.prefect_home / "prefect.db"
    finally:
        process.kill()
        process.wait()


def test_a_write_is_refused_when_the_database_stays_locked_and_is_done_when_it_is_free(
    prefect: tuple[str, Path],
) -> None:
    url, database = prefect
    with closing(sqlite3.connect(database, isolation_level=None, timeout=60)) as other:
        other.execute("begin immediate")
        begun = time.monotonic()
        with pytest.raises(urllib.error.HTTPError) as refused:
            http(f"{url}/flows/", {"name": "locked"}, timeout=120)
        took = time.monotonic() - begun
        other.execute("rollback")
    assert refused.value.code == 503
    assert prefect_server._PATIENCE - 0.5 < took < prefect_server._PATIENCE + 20  # Prefect alone waits 60 s
    assert b"locked" in http(f"{url}/flows/", {"name": "locked"}, timeout=120)

"""Prefect's server on SQLite: a lock that somebody holds stops it for seconds, not for a minute."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from fedllm.stack import prefect_server
from fedllm.stack.health import http

pytestmark = pytest.mark.servers


def test_a_write_is_refused_when_the_database_stays_locked_and_is_done_when_it_is_free(
    prefect: tuple[str, Path],
) -> None:
    url, database = prefect
    with closing(sqlite3.connect(database, isolation_level=None, timeout=60)) as other:
        other.execute("begin immediate")
        begun = time.monotonic()
        with pytest.raises(httpx.HTTPStatusError) as refused:
            http(f"{url}/flows/", {"name": "locked"}, timeout=120)
        took = time.monotonic() - begun
        other.execute("rollback")
    assert refused.value.response.status_code == 503
    assert prefect_server._PATIENCE - 0.5 < took < prefect_server._PATIENCE + 20  # Prefect alone waits 60 s
    assert b"locked" in http(f"{url}/flows/", {"name": "locked"}, timeout=120)

"""A slow link between all parties and the store: slower, and the same model in the end."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from disturbed import same, versions
from playground import fedllm
from slow_link import slow_link

from fedllm.endpoints import Endpoints

RATE = 96 * 1024  # bytes/s: a DSL line's way up
DELAY = 0.06  # s each way


def test_a_slow_link_to_the_store_changes_nothing_but_the_time(
    undisturbed: dict[str, Any], federation: Path, stack: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    access, secret = stack.registrar  # one user for all, as for a store elsewhere
    monkeypatch.setenv("FEDLLM_ACCESS_KEY", access)
    monkeypatch.setenv("FEDLLM_SECRET_KEY", secret)
    port = urlsplit(stack.door_url).port
    assert port
    with slow_link(port, rate=RATE, delay=DELAY) as line:
        done = fedllm(
            *("run", str(federation), "--json"),
            *("--set", "name=far"),
            *("--set", f"store.url=s3://{stack.bucket}"),
            *("--set", f"store.endpoint={stack.minio_url}"),
            *("--set", f"store.door=http://127.0.0.1:{line.port}"),
        )
        carried = line.carried
    told = json.loads(done.stdout.splitlines()[-1])
    assert same(told, undisturbed)
    assert versions(told["run_id"], "far") == ["1", "2"]
    moved = sum(site["bytes_up"] + site["bytes_down"] for site in told["sites"].values())
    assert carried > moved > 0, "all of the sites' went over the slow link"

"""The first `up` of a restored home: whatever its Prefect remembers, no run starts by itself."""

import time
from collections.abc import Iterator

import pytest

from fedllm.doctor import servers
from fedllm.endpoints import Endpoints
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.stack import up
from fedllm.stack.health import PrefectApi
from fedllm.stack.programs import POOL
from fedllm.stack.supervise import Control
from tests.stack.conftest import fedllm

REVIEW = "review-tags/sentiment"


@pytest.fixture
def api(there: Endpoints) -> Iterator[PrefectApi]:
    found = PrefectApi(there.prefect_api_url)
    yield found
    found.call(f"/work_pools/{POOL}", {"is_paused": False}, method="PATCH")


@pytest.fixture
def due(api: PrefectApi) -> Iterator[str]:
    """A run that is due while no worker is there, as in a home that was just restored."""
    Control(StackPaths.here())._call("stopProcess", "worker")
    deployment = api.deployments()[REVIEW]["id"]
    found = str(api.call(f"/deployments/{deployment}/create_flow_run", {})["id"])
    yield found
    api.call(f"/flow_runs/{found}", method="DELETE")


def paused(api: PrefectApi) -> bool:
    return bool(api.call("/work_pools/filter", {"work_pools": {"name": {"any_": [POOL]}}})[0]["is_paused"])


def state(api: PrefectApi, run: str) -> str:
    return str(api.call(f"/flow_runs/{run}")["state"]["type"])


def test_a_run_that_is_due_waits_until_a_person_resumes_the_pool(api: PrefectApi, due: str) -> None:
    place, control, said = StackPaths.here(), Control(StackPaths.here()), []
    place.restored.touch()
    up(progress=said.append)
    assert len([line for line in said if f"`prefect work-pool resume {POOL}`" in line]) == 1
    assert not place.restored.exists()
    assert control.states()["worker"] == "RUNNING"
    assert "is paused" in next(iter(servers.worker(api))).detail
    time.sleep(6)  # the worker asks every 2 s
    assert state(api, due) == "SCHEDULED"


def test_a_second_up_leaves_the_pool_as_it_is(there: Endpoints, api: PrefectApi) -> None:
    StackPaths.here().restored.touch()
    assert fedllm(there.home, "up", "--no-deploy")["paused_after_restore"] is True
    assert paused(api)
    assert fedllm(there.home, "up", "--no-deploy")["paused_after_restore"] is False
    assert paused(api)  # a person resumes it
    api.call(f"/work_pools/{POOL}", {"is_paused": False}, method="PATCH")
    assert fedllm(there.home, "up", "--no-deploy")["paused_after_restore"] is False
    assert not paused(api)

"""What the doctor says of the runs that a real Prefect holds."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from fedllm.doctor import deployed
from fedllm.endpoints import Endpoints
from fedllm.stack.health import PrefectApi


@pytest.fixture
def api(there: Endpoints) -> PrefectApi:
    return PrefectApi(there.prefect_api_url)


@pytest.fixture
def flow(api: PrefectApi) -> Iterator[str]:
    """A flow without a deployment: no worker takes its runs."""
    found = str(api.call("/flows/", {"name": "looked-at"})["id"])
    yield found
    api.call(f"/flows/{found}", method="DELETE")


def schedule(api: PrefectApi, flow: str, name: str, minutes: float) -> None:
    due = (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()
    state = {"type": "SCHEDULED", "state_details": {"scheduled_time": due}}
    api.call("/flow_runs/", {"flow_id": flow, "name": name, "state": state})


def test_a_late_run_is_seen_behind_many_that_are_to_come(api: PrefectApi, flow: str) -> None:
    for number in range(deployed._MOST_RUNS):
        schedule(api, flow, f"to-come-{number}", 10 + number)
    assert [finding.status for finding in deployed.runs(api)] == ["ok"]
    schedule(api, flow, "just-due", -0.5)
    assert [finding.status for finding in deployed.runs(api)] == ["ok"]
    schedule(api, flow, "overdue", -10)
    (found,) = deployed.runs(api)
    assert (found.status, found.detail) == ("warn", "late to start: overdue")

"""What Prefect shows of a site whose training failed, while the round goes on with the others."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas import TaskRun
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.runtime import flow_run

from fedllm.confidentiality.plain import PLAIN
from fedllm.coordinator.steps import LOCAL_TRAIN
from fedllm.journal.journal import Journal
from fedllm.journal.outcomes import SiteOutcome
from fedllm.journal.runs import begin_run
from flows.tasks import PrefectRunner
from tests.prefect_client import own_prefect

if TYPE_CHECKING:
    from fedllm.coordinator.training import Training

pytestmark = pytest.mark.servers

WHY = "the site's records do not fit the plan's task; the site's own log says which and why"
OUTCOMES = [
    SiteOutcome(site="amazon", status="updated", steps=2),
    SiteOutcome(site="movies", status="failed", reason=WHY),
    SiteOutcome(site="nyt", status="declined", reason="it is outside the policy's hours 22:00-06:00"),
]


@pytest.fixture(scope="module", autouse=True)
def prefect() -> Iterator[None]:
    """A Prefect server of the tests' own."""
    with own_prefect():
        yield


@pytest.fixture
def training(tmp_path: Path) -> Iterator["Training"]:
    """A training whose sites have done their part."""
    with closing(Journal("trial", f"sqlite:///{tmp_path / 'journal.db'}")) as journal:
        begin_run(journal, "run-1", "{}")
        for outcome in OUTCOMES:
            step = f"remote-local-train {outcome.site}"
            journal.once("run-1", 1, step, SiteOutcome, lambda outcome=outcome: outcome)
        config = SimpleNamespace(name="trial")
        made = SimpleNamespace(config=config, run="run-1", journal=journal, mode=PLAIN)
        yield cast("Training", made)


def task_runs(run: str) -> dict[str, TaskRun]:
    """The task runs of a flow run, by name, once Prefect has heard how all of them ended."""
    deadline = time.monotonic() + 60  # s: states are sent from a queue in the background
    with get_client(sync_client=True) as client:
        asked: Any = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
        while True:
            found = client.read_task_runs(flow_run_filter=asked)
            ended = [one for one in found if one.state is not None and one.state.is_final()]
            if len(ended) == len(OUTCOMES) or time.monotonic() > deadline:
                return {one.name: one for one in found}
            time.sleep(0.2)


def test_a_failed_site_is_a_failed_task_with_its_reason_and_the_round_goes_on(training: "Training") -> None:
    told: dict[str, Any] = {}

    @flow(name="one-round", persist_result=False)
    def one_round() -> str:
        told["run"] = flow_run.get_id()
        arrived = PrefectRunner(training).each(LOCAL_TRAIN, 1, [site.site for site in OUTCOMES])
        told["outcomes"] = sorted(arrived, key=lambda done: done.site)
        return "done"

    assert one_round() == "done"
    assert told["outcomes"] == OUTCOMES
    runs = task_runs(told["run"])
    states = {name: (run.state_name, run.run_count) for name, run in runs.items()}
    assert states == {
        "round-1 remote-local-train amazon": ("Completed", 1),
        "round-1 remote-local-train movies": ("Failed", 1),
        "round-1 remote-local-train nyt": ("Completed", 1),
    }
    state = runs["round-1 remote-local-train movies"].state
    assert state is not None
    assert state.message == f"movies could not train: {WHY}"

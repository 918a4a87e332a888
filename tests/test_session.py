"""From a request to a training: which run it is, and whether it may go on."""

from contextlib import closing

import pytest

from fedllm.config import FederationConfig
from fedllm.errors import CancelledError
from fedllm.journal.journal import Journal
from fedllm.journal.runs import begin_run, end_run, play_by
from fedllm.session import Request, _settle

CONFIG = FederationConfig.model_validate(
    {"name": "settling", "task": {"kind": "text", "fields": {"text": "text"}}}
)


@pytest.fixture(autouse=True)
def begun(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path_factory.mktemp("home")))
    with closing(Journal("settling")) as journal:
        begin_run(journal, "run-1", CONFIG.model_dump_json())
        play_by(journal, "flow-1", "run-1")


def test_a_flow_run_that_runs_again_resumes_its_training() -> None:
    assert _settle(CONFIG, Request(prefect_flow_run="flow-1"))[0] == "run-1"
    assert _settle(CONFIG, Request(prefect_flow_run="flow-2"))[0] != "run-1"


def test_a_cancelled_training_is_not_begun_again_by_its_flow_run_but_by_a_person() -> None:
    with closing(Journal("settling")) as journal:
        end_run(journal, "run-1", "cancelled", "by a test")
    with pytest.raises(CancelledError, match="--resume run-1"):
        _settle(CONFIG, Request(prefect_flow_run="flow-1"))
    assert _settle(CONFIG, Request(run_id="run-1", prefect_flow_run="flow-2"))[0] == "run-1"

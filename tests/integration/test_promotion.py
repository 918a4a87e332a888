"""Review on the real stack: Prefect's approval, MLflow's tags, a gate that refuses, and the way back."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
import yaml
from mlflow import MlflowClient
from playground import PATIENCE, SITES, SOON, STEP, fedllm, write_corpus
from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment
from prefect.flow_runs import resume_flow_run

from fedllm.endpoints import Endpoints
from fedllm.stack.health import PrefectApi

pytestmark = pytest.mark.usefixtures("prefect")

NAME = "reviewed"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, stack: Endpoints) -> Path:
    """Two federation files that differ in whether they ask for privacy; the deployments are registered."""
    assert stack.own_prefect
    folder = tmp_path_factory.mktemp("reviewed")
    write_corpus(folder / "corpus.jsonl", per_site=40)
    write_corpus(folder / "public.jsonl", per_site=10)
    config: dict[str, Any] = {
        "name": NAME,
        "model": {"base": "tiny"},
        "task": {
            "labels": {"positive": " positive", "negative": " negative"},
            "template": "Text: {text}\nSentiment:",
        },
        "evaluation": {"public": str(folder / "public.jsonl")},
        "rounds": {"max": 1, "deadline": "15m", "join": "10m"},
        "local": {"lr": 0.05, "steps": 6, "batch_size": 4},
        "simulation": {"source": str(folder / "corpus.jsonl"), "sites": SITES},
    }
    (folder / "open.yaml").write_text(yaml.safe_dump(config))
    private = {"unit": "record", "epsilon": 3.0, "clip": 0.5, "sampling_rate": 0.1}
    (folder / "private.yaml").write_text(yaml.safe_dump(config | {"privacy": private}))
    fedllm("deploy", "--config", str(folder / "open.yaml"))
    return folder


@pytest.fixture(scope="module")
def mlflow(stack: Endpoints) -> MlflowClient:
    return MlflowClient(stack.mlflow_url)


def run(deployment: str, *, seconds: float | None = PATIENCE, **parameters: object) -> UUID:
    """Run a deployment as any Prefect client does; `seconds` 0 does not wait for its end."""
    found: Any = run_deployment(
        f"{deployment}/{NAME}", parameters=parameters, timeout=seconds, poll_interval=0.5
    )
    if seconds:
        assert found.state.is_completed(), found.state.message
    flow_run: UUID = found.id
    return flow_run


def until(flow_run: UUID, wanted: Callable[[Any], bool]) -> Any:  # noqa: ANN401 - Prefect's state
    deadline = time.monotonic() + STEP
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            state = client.read_flow_run(flow_run).state
            if state is not None and wanted(state):
                return state
            time.sleep(0.5)
    pytest.fail(f"the flow run stayed {state}")


def review(version: str, folder: Path, config: str, **typed: object) -> Any:  # noqa: ANN401 - Prefect's state
    """Have a version reviewed: resume the suspended run with what a person types, and wait for its end."""
    flow_run = run("promotion", seconds=0, config_uri=str(folder / config), version=int(version))
    until(flow_run, lambda state: state.name == "Suspended")
    holders = [p.pid for p in psutil.process_iter() if _is_of(p, flow_run)]
    deadline = time.monotonic() + SOON
    while holders and time.monotonic() < deadline:  # it says Suspended first, and leaves then
        time.sleep(0.2)
        holders = [p.pid for p in psutil.process_iter() if _is_of(p, flow_run)]
    assert not holders, "a process is held while the reviewer thinks"
    resume_flow_run(flow_run, run_input=typed)
    return until(flow_run, lambda state: state.is_final())


def _is_of(process: psutil.Process, flow_run: UUID) -> bool:
    try:
        return process.environ().get("PREFECT__FLOW_RUN_ID") == str(flow_run)
    except psutil.Error:
        return False


def aliases(mlflow: MlflowClient) -> dict[str, str]:
    return {name: str(version) for name, version in mlflow.get_registered_model(NAME).aliases.items()}


def events(stack: Endpoints, kind: str) -> list[dict[str, Any]]:
    """What Prefect was told about this federation; its events arrive a moment later."""
    wanted = {"filter": {"event": {"name": [kind]}, "resource": {"id": [f"fedllm.federation.{NAME}"]}}}
    deadline = time.monotonic() + SOON
    found: list[dict[str, Any]] = []
    while not found and time.monotonic() < deadline:
        found = PrefectApi(stack.prefect_api_url).call("/events/filter", wanted)["events"]
        time.sleep(0.2)
    return found


def test_challengers_become_champions_by_people_alone_and_back_again(
    stack: Endpoints, folder: Path, mlflow: MlflowClient
) -> None:
    config = str(folder / "open.yaml")
    run("federated-training", config_uri=config)
    assert aliases(mlflow) == {"challenger": "1"}, "nobody has decided yet"

    # Through Prefect's API.
    state = review("1", folder, "open.yaml", approve=True, reviewer="Ann Example", reason="reads well")
    assert state.is_completed(), state.message
    assert aliases(mlflow) == {"challenger": "1", "champion": "1"}
    tags = mlflow.get_model_version(NAME, "1").tags
    assert (tags["review.decision"], tags["review.reviewer"]) == ("approved", "Ann Example (asserted)")
    assert "against zero-shot" in json.loads(tags["review.gates"])["quality"][1]
    (event,) = events(stack, "fedllm.review.approved")
    assert (event["payload"]["version"], event["payload"]["reviewer"]) == ("1", "Ann Example (asserted)")
    shown = {"artifacts": {"key": {"any_": [f"{NAME}-review"]}}}
    cards = PrefectApi(stack.prefect_api_url).call("/artifacts/filter", shown)
    assert [f"# {NAME}, version 1" in card["data"] for card in cards] == [True], "one card, shown once"

    # Through MLflow's tags.
    run("federated-training", config_uri=config)
    assert aliases(mlflow) == {"challenger": "2", "champion": "1"}
    for name, value in {"reviewer": "Bob", "reason": "as good", "status": "approved"}.items():
        mlflow.set_model_version_tag(NAME, "2", f"review.{name}", value)
    run("review-tags", config_uri=config)
    assert aliases(mlflow) == {"challenger": "2", "champion": "2", "previous": "1"}
    tags = mlflow.get_model_version(NAME, "2").tags
    assert tags["review.outcome"].startswith("approved: champion since")
    assert "paired on 30 records" in json.loads(tags["review.gates"])["quality"][1]

    # A gate fails: the federation asks for privacy by now.
    told = json.loads(fedllm("rollback", "--config", config, "--reason", "a doubt", "--json").stdout)
    assert (told["champion"], told["from"], told["previous"]) == ("1", "2", None)
    assert aliases(mlflow) == {"challenger": "2", "champion": "1"}
    assert len(events(stack, "fedllm.review.rolled-back")) == 1
    state = review("2", folder, "private.yaml", approve=True, reviewer="Ann Example", reason="again")
    assert state.is_failed()
    assert state.message.startswith("version 2 of reviewed is not promoted: budget: fail, no DP configured")
    assert aliases(mlflow) == {"challenger": "2", "champion": "1"}
    (event,) = events(stack, "fedllm.review.refused")
    assert event["payload"]["refused"].startswith("budget: fail")

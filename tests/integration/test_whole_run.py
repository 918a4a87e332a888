"""A whole training on real MinIO, Prefect and MLflow: what a user sees of it in each of them."""

import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from mlflow import MlflowClient
from playground import PATIENCE, SITES, STEP, TRAINING, fedllm, said
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleUpdate, DeploymentUpdate
from prefect.client.schemas.schedules import IntervalSchedule

from fedllm.endpoints import Endpoints
from fedllm.stack.health import PrefectApi

pytestmark = pytest.mark.usefixtures("prefect")

STEPS = {"dispatch", "remote-local-train", "dp-audit", "aggregate", "evaluate", "release"}


def task_runs(stack: Endpoints, flow_run: str) -> list[dict[str, Any]]:
    asked = {"flow_runs": {"id": {"any_": [flow_run]}}, "limit": 200}
    runs: list[dict[str, Any]] = PrefectApi(stack.prefect_api_url).call("/task_runs/filter", asked)
    return runs


def newest_flow_run(stack: Endpoints) -> dict[str, Any]:
    asked = {"sort": "START_TIME_DESC", "limit": 1}
    run: dict[str, Any] = PrefectApi(stack.prefect_api_url).call("/flow_runs/filter", asked)[0]
    return run


@pytest.fixture(scope="module")
def deployed(stack: Endpoints, federation: Path) -> Endpoints:
    """The stack, with the federation's deployments."""
    fedllm("deploy", "--config", str(federation))
    return stack


def test_a_run_ends_with_the_public_json(undisturbed: dict[str, Any]) -> None:
    told = undisturbed
    assert told["schema"] == "fedllm.run/1"
    assert (told["status"], told["stop_reason"], told["rounds"]) == ("completed", "round limit", 2)
    assert set(told["model"]) == {"name", "version", "uri", "sha256"}
    assert told["model"]["uri"].startswith("models:/test/")
    assert set(told["eval"]["by_group"]) == set(told["baseline"]["zero_shot"]["by_group"]) == set(SITES)
    assert told["eval"]["loss"] < told["baseline"]["zero_shot"]["loss"]
    for site in SITES:
        at = told["sites"][site]
        assert at["rounds"] == 2
        assert at["epsilon"] is None
        assert at["bytes_up"] > 0


def test_every_version_says_where_it_came_from_and_what_privacy_it_has(
    undisturbed: dict[str, Any], stack: Endpoints
) -> None:
    client = MlflowClient(stack.mlflow_url)
    found = client.search_model_versions("name = 'test'")
    ours = [v for v in found if v.tags["fed.run"] == undisturbed["run_id"]]
    assert sorted(v.tags["fed.round"] for v in ours) == ["1", "2"]
    for version in ours:
        tags = version.tags
        assert tags["fed.sites"] == ",".join(SITES)
        assert tags["dp.epsilon"] == "not configured"
        assert len(tags["base.sha256"]) == len(tags["model.sha256"]) == 64
        assert {"base.model", "prefect.flow_run", "eval.accuracy", "eval.loss"} <= set(tags)
        assert "no DP configured" in version.description
    best = client.get_model_version("test", undisturbed["model"]["version"])
    assert best.tags["model.sha256"] == undisturbed["model"]["sha256"]
    # Other tests may have trained since: the challenger is the best version of whichever run was last.
    assert client.get_model_version_by_alias("test", "challenger").tags["fed.run"]


def test_the_challenger_predicts_with_pickle_forbidden(undisturbed: dict[str, Any], stack: Endpoints) -> None:
    assert undisturbed["status"] == "completed"
    code = (
        "import mlflow; m = mlflow.pyfunc.load_model('models:/test@challenger');"
        "print(list(m.predict(['lovely bright day', 'awful broken thing'])))"
    )
    env = os.environ | {
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_TRACKING_URI": stack.mlflow_url,
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(label in {"positive", "negative"} for label in eval(done.stdout.splitlines()[-1]))  # noqa: S307


def test_a_stock_prefect_client_triggers_a_training_in_the_worker(
    undisturbed: dict[str, Any], deployed: Endpoints
) -> None:
    prefect = str(Path(sys.executable).parent / "prefect")
    command = [
        prefect,
        "deployment",
        "run",
        "federated-training/test",
        "--watch",
        "--watch-interval",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run = newest_flow_run(deployed)
    assert run["state"]["type"] == "COMPLETED"
    names = [task["name"] for task in task_runs(deployed, run["id"])]
    assert {name.split()[1] for name in names} == STEPS
    assert f"round-2 remote-local-train {SITES[0]}" in names
    client = MlflowClient(deployed.mlflow_url)
    found = client.search_model_versions("name = 'test'")
    worked = [v for v in found if v.tags["prefect.flow_run"] == run["id"]]
    assert len(worked) == 2
    newest = max(worked, key=lambda v: int(v.tags["fed.round"]))
    assert run["name"] == f"test {newest.tags['fed.run']}"
    assert undisturbed["model"]["sha256"] in {v.tags["model.sha256"] for v in worked}, newest.tags


def runs_of(stack: Endpoints, deployment: UUID, *states: str) -> list[dict[str, Any]]:
    asked = {
        "flow_runs": {"deployment_id": {"any_": [str(deployment)]}, "state": {"type": {"any_": list(states)}}}
    }
    runs: list[dict[str, Any]] = PrefectApi(stack.prefect_api_url).call("/flow_runs/filter", asked)
    return runs


def test_the_scheduled_deployment_fires(deployed: Endpoints, federation: Path) -> None:
    with get_client(sync_client=True) as client:
        nightly = client.read_deployment_by_name("federated-training/test-nightly")
        client.update_deployment(
            nightly.id,
            DeploymentUpdate(
                parameters={"config_uri": str(federation), "rounds": 1},
                schedules=[
                    DeploymentScheduleUpdate(
                        slug="nightly", schedule=IntervalSchedule(interval=timedelta(seconds=15)), active=True
                    )
                ],
            ),
        )
        deadline = time.monotonic() + TRAINING
        try:
            while not (found := runs_of(deployed, nightly.id, "COMPLETED")) and time.monotonic() < deadline:
                time.sleep(1)
        finally:
            client.set_deployment_paused_state(nightly.id, paused=True)
            # Another one, under way or in the worker's hands, would hold the lease after this test. Pausing
            # leaves those that wait for the concurrency limit: a worker takes them all the same.
            quiet, deadline = 0, time.monotonic() + STEP
            while quiet < 10 and time.monotonic() < deadline:
                for waiting in runs_of(deployed, nightly.id, "SCHEDULED"):
                    client.delete_flow_run(UUID(waiting["id"]))
                left = runs_of(deployed, nightly.id, "SCHEDULED", "PENDING", "RUNNING")
                quiet = 0 if left else quiet + 1
                time.sleep(1)
    assert found, "no scheduled run completed"
    assert found[0]["auto_scheduled"]


def test_a_training_leaves_its_report_in_mlflow_and_a_link_to_it_in_prefect(
    undisturbed: dict[str, Any], stack: Endpoints, tmp_path: Path
) -> None:
    client, run = MlflowClient(stack.mlflow_url), undisturbed["run_id"]
    experiment = client.get_experiment_by_name("test")
    wanted = f"tags.`fed.kind` = 'training' and tags.`fed.run` = '{run}'"
    parent = client.search_runs([experiment.experiment_id], wanted)[0].info
    page = Path(client.download_artifacts(parent.run_id, "report.html", str(tmp_path))).read_text()
    assert parent.status == "FINISHED"
    assert undisturbed["model"]["sha256"] in page
    assert all(site in page for site in SITES)
    wanted_links = {"artifacts": {"key": {"any_": ["test-report"]}}, "limit": 200}
    found = PrefectApi(stack.prefect_api_url).call("/artifacts/filter", wanted_links)
    links = [artifact["data"] for artifact in found]
    address = f"/#/experiments/{experiment.experiment_id}/runs/{parent.run_id}/artifacts/report.html"
    assert any(f"{stack.mlflow_url}{address}" in link for link in links), links


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "rounds.maxx=2"], "did you mean 'max'"),
        (["--resume", "never-was"], "has no run never-was"),
        (["--set", "rounds.min_sites=9"], "rounds.min_sites is 9 and `simulation` has 3 sites"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(arguments: list[str], words: str, federation: Path) -> None:
    done = fedllm("run", str(federation), "--json", *arguments, check=False)
    assert done.returncode != 0
    assert words in said(done)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_json_alone_is_on_stdout(undisturbed: dict[str, Any], federation: Path) -> None:
    done = fedllm("site", "list", "--config", str(federation), "--json")
    told = json.loads(done.stdout)
    assert [entry["site"] for entry in told["sites"]] == SITES
    assert undisturbed["run_id"]


def test_after_garbage_is_collected_every_registered_version_still_answers(
    undisturbed: dict[str, Any], federation: Path, stack: Endpoints
) -> None:
    looked = json.loads(fedllm("gc", "--config", str(federation), "--days", "0", "--json").stdout)
    assert looked["objects"] > 0
    assert looked["deleted"] is False
    done = json.loads(fedllm("gc", "--config", str(federation), "--days", "0", "--delete", "--json").stdout)
    assert (done["objects"], done["left"]) == (looked["objects"], [])
    again = json.loads(fedllm("gc", "--config", str(federation), "--days", "0", "--json").stdout)
    assert (again["objects"], again["files"]) == (0, 0)
    found = MlflowClient(stack.mlflow_url).search_model_versions("name = 'test'")
    ours = [v for v in found if v.tags["fed.run"] == undisturbed["run_id"]]
    assert len(ours) == undisturbed["rounds"]
    for version in ours:
        model = f"models:/test/{version.version}"
        told = fedllm("chat", model, "--prompt", "a lovely day", "--config", str(federation), "--json")
        assert json.loads(told.stdout.splitlines()[-1])["model"] == model

"""A backup taken while a training runs, restored into an empty home: the training goes on as if it had."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from disturbed import journal, resumed, same, versions
from playground import PATIENCE, SITES, fedllm, write_corpus

from fedllm.endpoints import Endpoints
from fedllm.stack import down, up
from fedllm.stack.health import PrefectApi
from tests.own_ports import own_ports

pytestmark = pytest.mark.stack

DRIVER = Path(__file__).with_name("backed_up_run.py")


@dataclass(frozen=True)
class Saved:
    """A training that went on after its backup, and then lost everything else."""

    archive: Path
    federation: Path
    told: dict[str, Any]  # what the training came to
    flow_run: str  # Prefect's
    adapter: bytes  # of round 1
    ports: dict[str, int]  # other ones, for the restored stack


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("PREFECT_", "MLFLOW_"))]:
            patch.delenv(name)
        patch.setenv("FEDLLM_HOME", str(tmp_path_factory.mktemp("first") / "home"))
        yield patch
        down()


def enter(environment: pytest.MonkeyPatch, stack: Endpoints) -> None:
    for name, value in stack.environment().items():
        environment.setenv(name, value)


@pytest.fixture(scope="module")
def saved(environment: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder = tmp_path_factory.mktemp("saved")
    write_corpus(folder / "corpus.jsonl", per_site=40)
    write_corpus(folder / "public.jsonl", per_site=10)
    federation = folder / "federation.yaml"
    config = {
        "name": "test",
        "model": {"base": "tiny"},
        "task": {
            "labels": {"positive": " positive", "negative": " negative"},
            "template": "Text: {text}\nSentiment:",
        },
        "evaluation": {"public": str(folder / "public.jsonl")},
        "rounds": {"max": 2, "deadline": "15m", "join": "10m", "patience": None},
        "local": {"lr": 0.01, "steps": 3, "batch_size": 4},
        "simulation": {"source": str(folder / "corpus.jsonl"), "sites": SITES},
    }
    federation.write_text(yaml.safe_dump(config))
    enter(environment, up(ports=own_ports()))
    others = own_ports()
    archive = folder / "b.tar"
    # The updates of round 2 are in the bucket, opened by dp-audit, and destroyed a moment later.
    command = [sys.executable, str(DRIVER), "2", "aggregate", str(archive), "run", str(federation), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["status"], versions(told["run_id"])) == ("completed", ["1", "2"])
    ((flow_run,),) = journal("select flow_run from flow_run where run=?", told["run_id"])
    home = Path(os.environ["FEDLLM_HOME"])
    adapter = home / "coordinator/test/runs" / told["run_id"] / "round-1" / "adapter_model.safetensors"
    found = Saved(archive, federation, told, str(flow_run), adapter.read_bytes(), others)
    down()
    home.rename(home.with_name("thrown-away"))
    return found


def test_a_training_goes_on_from_a_backup_in_an_empty_stack_to_the_very_same_model(
    saved: Saved, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = saved.told["run_id"]
    assert saved.archive.stat().st_mode & 0o777 == 0o600
    home = tmp_path / "second" / "home"
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "MLFLOW_"))]:
        environment.delenv(name)
    back = json.loads(fedllm("restore", str(saved.archive), "--into", str(home), "--json").stdout)
    assert (back["unfinished"], back["invite"], back["retired"]) == ({"test": [run]}, {}, [])
    environment.setenv("FEDLLM_HOME", str(home))
    stack = up(ports=saved.ports)
    enter(environment, stack)

    assert versions(run) == ["1"]  # what MLflow had when the backup was taken
    copy = Path(mlflow.artifacts.download_artifacts("models:/test/1", dst_path=str(tmp_path / "model")))
    assert saved.adapter in {path.read_bytes() for path in copy.rglob("adapter_model.safetensors")}
    earlier = PrefectApi(stack.prefect_api_url).call(f"/flow_runs/{saved.flow_run}")
    assert earlier["flow_id"]

    assert journal("select status from run where run=?", run) == [("crashed",)]
    told = resumed(saved.federation, run)
    assert same(told, saved.told)
    assert versions(run) == ["1", "2"]
    ((counter,),) = journal("select head_counter from federation")
    assert counter > 1_000_000  # the sites had seen the lower ones
    left = [
        path.name
        for path in (home / "coordinator/test/runs" / run).iterdir()
        if path.suffix in {".update", ".part"}
    ]
    assert left == []

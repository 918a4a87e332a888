"""One real stack for the whole-run tests: MinIO, Prefect, a worker, MLflow; and a corpus of their own."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from playground import SITES, fedllm, own_ports, write_corpus
from prefect.settings import PREFECT_API_URL, temporary_settings

from fedllm.stack import Endpoints, down, up


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    """The stack that `fedllm up` starts, in a home of its own."""
    home = tmp_path_factory.mktemp("stack")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLLM_HOME", str(home))
        patch.delenv("PREFECT_API_URL", raising=False)
        try:
            found = up(ports=own_ports())
            for name, value in found.environment().items():
                patch.setenv(name, value)
            yield found
        finally:
            down()


@pytest.fixture
def prefect(stack: Endpoints) -> Iterator[None]:
    """This process' Prefect client speaks to the stack, whatever was imported first."""
    with temporary_settings(updates={PREFECT_API_URL: stack.prefect_api_url}):
        yield


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation file: three sites, a tiny model, two rounds."""
    folder = tmp_path_factory.mktemp("federation")
    write_corpus(folder / "corpus.jsonl", per_site=40)
    write_corpus(folder / "public.jsonl", per_site=10)
    config = {
        "name": "test",
        "model": {"base": "tiny"},
        "task": {
            "labels": {"positive": " positive", "negative": " negative"},
            "template": "Text: {text}\nSentiment:",
        },
        "evaluation": {"public": str(folder / "public.jsonl")},
        "rounds": {"max": 2, "deadline": "3m", "patience": None},
        "local": {"lr": 0.01, "steps": 3, "batch_size": 4},
        "simulation": {"source": str(folder / "corpus.jsonl"), "sites": SITES},
    }
    path = folder / "federation.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="session")
def undisturbed(stack: Endpoints, federation: Path) -> dict[str, Any]:
    """What a run comes to when nothing goes wrong."""
    assert stack.mlflow_url
    told: dict[str, Any] = json.loads(fedllm("run", str(federation), "--json").stdout.splitlines()[-1])
    return told

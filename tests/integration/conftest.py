"""One real stack for the whole-run tests: MinIO, Prefect, a worker, MLflow; and a corpus of their own."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from playground import SITES, fedllm, write_corpus

from fedllm.endpoints import Endpoints
from fedllm.stack import down, up
from tests.blank_databases import put_blank_databases
from tests.own_ports import own_ports
from tests.prefect_client import speaking_with


@contextmanager
def entered(home: Path, variables: dict[str, str]) -> Iterator[None]:
    """This process is at home there, and leaves nothing in the environment of the tests after it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        for name, value in {"FEDLLM_HOME": str(home), **variables}.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    """The stack that `fedllm up` starts, in a home of its own; started once, for it takes a minute."""
    home = tmp_path_factory.mktemp("stack")
    put_blank_databases(home)
    try:
        with entered(home, {}):
            found = up(ports=own_ports())
        yield found
    finally:
        with entered(home, {}):
            down()


@pytest.fixture(scope="module")
def stack(servers: Endpoints) -> Iterator[Endpoints]:
    """The stack, and a shell that knows it."""
    with entered(servers.home, servers.environment()):
        yield servers


@pytest.fixture
def prefect(stack: Endpoints) -> Iterator[None]:
    """This process' Prefect client speaks to the stack, whatever was imported first."""
    with speaking_with(stack):
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
        "rounds": {"max": 2, "deadline": "15m", "join": "10m", "patience": None},
        "local": {"lr": 0.01, "steps": 3, "batch_size": 4},
        "simulation": {"source": str(folder / "corpus.jsonl"), "sites": SITES},
    }
    path = folder / "federation.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="session")
def undisturbed_run(servers: Endpoints, federation: Path) -> dict[str, Any]:
    with entered(servers.home, servers.environment()):
        told: dict[str, Any] = json.loads(fedllm("run", str(federation), "--json").stdout.splitlines()[-1])
    return told


@pytest.fixture(scope="module")
def undisturbed(undisturbed_run: dict[str, Any], stack: Endpoints) -> dict[str, Any]:
    """What a run comes to when nothing goes wrong, in a shell that knows the stack."""
    assert stack.mlflow_url
    return undisturbed_run

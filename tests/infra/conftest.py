"""infra/compose.yaml as Docker's own client reads it, and an engine's work done by bubblewrap."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from manifests import SIDES, Manifest, render
from playground_of_services import Services

from fedllm.secure.ca import server_certificate

ROOT = Path(__file__).parents[2]
STORE = "minio.example"  # as sites know it: the door
Program = Callable[[str, str], str]  # a name, and the package that brings it
Compose = Callable[..., subprocess.CompletedProcess[str]]
NAMES = ("minio", "postgres", "prefect", "mlflow", STORE)


@pytest.fixture(scope="session")
def program() -> Program:
    """Finds a program that the tests need, or says which package brings it."""

    def find(name: str, package: str) -> str:
        beside = Path(sys.executable).parent / name
        found = str(beside) if beside.is_file() else shutil.which(name)
        assert found is not None, f"{name} is missing: {package}"
        return found

    return find


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An infra/.env such as docs/deploy.md makes it: real certificates, and secrets that the script drew."""
    ground = tmp_path_factory.mktemp("compose")
    server_certificate(ground / "ca")
    scripts = ROOT / "infra" / "compose"
    subprocess.run([scripts / "secrets.sh", ground / "secrets"], check=True, capture_output=True)
    subprocess.run(
        [scripts / "certificates.sh", ground / "ca", ground / "certificates", STORE],
        env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        check=True,
        capture_output=True,
    )
    (ground / "federation").mkdir()
    return {
        "FEDLLM_UID": "1000",
        "FEDLLM_GID": "1000",
        "FEDLLM_SECRETS": str(ground / "secrets"),
        "FEDLLM_CA": str(ground / "ca"),
        "FEDLLM_CERTIFICATES": str(ground / "certificates"),
        "FEDLLM_FEDERATION": str(ground / "federation"),
        "FEDLLM_STORE_HOST": STORE,
    }


@pytest.fixture(scope="session")
def docker_compose(program: Program, settings: dict[str, str]) -> Compose:
    """Runs Docker's own client on infra/compose.yaml; what it needs no engine for."""
    client = program("docker-compose", "run tests/infra/tools.sh .venv/bin")

    def run(*arguments: str, **changed: str | None) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in (settings | changed).items() if v is not None}
        return subprocess.run(
            [client, "--env-file", "/dev/null", "-f", ROOT / "infra" / "compose.yaml", *arguments],
            env={"PATH": os.environ["PATH"], "HOME": "/nowhere", **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def composed(docker_compose: Compose) -> dict[str, Any]:
    """The file with every variable put in, as the client would hand it to an engine."""
    done = docker_compose("--profile", "*", "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="session")
def services(
    composed: dict[str, Any],
    program: Program,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Services]:
    """The services of the file, not started yet; what was started is stopped at the end."""
    tools = {
        "bwrap": program("bwrap", "apt-get install bubblewrap"),
        "ip": program("ip", "apt-get install iproute2"),
        "initdb": program("initdb", "apt-get install postgresql, and put its bin folder on the PATH"),
        "curl": program("curl", "apt-get install curl"),
    }
    with Services(composed, tools, tmp_path_factory.mktemp("engine"), [*NAMES]) as found:
        yield found


@pytest.fixture(scope="session")
def rendered(program: Program, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Manifest]]:
    """What `kubectl apply --kustomize` would send, by side."""
    kubectl = program("kubectl", "run tests/infra/tools.sh .venv/bin")
    return {side: render(kubectl, side, tmp_path_factory.mktemp(side)) for side in SIDES}

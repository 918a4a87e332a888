"""One fresh stack for the folder: up, looked at and down once as a user would have it, then up again."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from fedllm.endpoints import Endpoints
from fedllm.endpoints.passwords import passwords
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.endpoints.state import StackState
from fedllm.stack import down, up
from fedllm.stack.health import answers, wait_until
from fedllm.stack.programs import base_environment, programs
from fedllm.stack.supervise import leftovers
from tests.own_ports import own_ports

ROOT = Path(__file__).parents[2]
PORTS = {"door": 9000, "minio": 9010, "prefect": 4200, "mlflow": 5000}


@dataclass(frozen=True)
class FirstLife:
    """What a user sees who clones, sets up, and runs three commands."""

    home: Path
    up: dict[str, Any]
    doctor: dict[str, Any]
    down: dict[str, Any]
    seconds: float  # of up and doctor together
    left: list[int]  # processes of the stack after `down`
    listening: list[int]  # ports of it that still answer
    made: list[str]  # what is in fedllm's home then


class Running:
    """A stack that is up, as its supervisord would say."""

    ended = False

    def __init__(self, _: StackPaths) -> None:
        """Take what `Control` takes."""

    def alive(self) -> bool:
        return True

    def shutdown(self) -> None:
        Running.ended = True


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StackPaths:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "a home"))
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    found = StackPaths.here()
    found.create()
    return found


def python(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own, at home there and in the clone's folder, that knows no other stack."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    env["FEDLLM_HOME"] = str(home)
    argv = [sys.executable, *arguments]
    return subprocess.run(argv, env=env, cwd=ROOT, capture_output=True, text=True, check=False)


def fedllm(home: Path, *arguments: str) -> dict[str, Any]:
    """A verb in a process of its own; what it says with --json."""
    done = python(home, "-m", "fedllm", *arguments, "--json")
    assert done.stdout.count("\n") == 1, done.stdout + done.stderr
    return {**json.loads(done.stdout), "exit_code": done.returncode}


@pytest.fixture(scope="package")
def first_life(tmp_path_factory: pytest.TempPathFactory) -> FirstLife:
    home = tmp_path_factory.mktemp("fresh") / "home"
    asked = [f"--{name}-port={port}" for name, port in own_ports(22_000).items()]
    begun = time.monotonic()
    told = fedllm(home, "up", *asked)
    found = fedllm(home, "doctor")
    seconds = time.monotonic() - begun
    for _ in range(2):
        # It gives a server ten seconds to answer: one that is busy just then may need more.
        if found["status"] != "ok":
            found = fedllm(home, "doctor")
    urls = ("minio_url", "door_url", "prefect_ui_url", "mlflow_url")
    ports = {int(told[name].rsplit(":", 1)[1]) for name in urls}
    ended = fedllm(home, "down")
    listening = {c.laddr.port for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    left = [process.pid for process in leftovers(StackPaths(home))]
    made = sorted(path.name for path in home.iterdir())
    return FirstLife(home, told, found, ended, seconds, left, sorted(ports & listening), made)


@pytest.fixture(scope="package")
def fresh(first_life: FirstLife) -> Iterator[Endpoints]:
    """The same stack, up again; its deployments are registered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLLM_HOME", str(first_life.home))
        patch.delenv("PREFECT_API_URL", raising=False)
        found = up(config=ROOT / "params.yaml")
        yield found
        down()


@pytest.fixture
def there(fresh: Endpoints, monkeypatch: pytest.MonkeyPatch) -> Endpoints:
    """The fresh stack as this process' own, whatever other tests have set meanwhile."""
    monkeypatch.setenv("FEDLLM_HOME", str(fresh.home))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return fresh


@pytest.fixture(scope="module")
def prefect_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, str]]:
    """The server alone, started as the stack starts it; its address, its database, its password."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLLM_HOME", str(tmp_path_factory.mktemp("home")))
        place = StackPaths.here()
        place.create()
        state = StackState(ports=own_ports(26_000))
        [found] = [program for program in programs(place, state) if program.name == "prefect"]
        env = base_environment(place, own_prefect=True) | found.env
        password = passwords(place).prefect_auth
    process = subprocess.Popen(found.argv, env=env)

    def check() -> None:
        assert process.poll() is None

    try:
        wait_until("prefect", lambda: answers(f"{state.own_prefect_url}/health"), check, 300)
        yield state.own_prefect_url, place.prefect_home / "prefect.db", password
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def prefect(prefect_alone: tuple[str, Path, str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """That server as the user's own: its address and its database."""
    url, database, password = prefect_alone
    monkeypatch.setenv("PREFECT_API_URL", url)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", password)
    return url, database

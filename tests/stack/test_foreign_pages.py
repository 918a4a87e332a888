"""Pages of strangers in a real browser have neither Prefect nor MLflow do anything; unguarded, both obey."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from fedllm.endpoints import Endpoints
from fedllm.stack.access import access_to
from fedllm.stack.health import PrefectApi, answers, http, wait_until
from tests.blank_databases import put_blank_databases
from tests.browser import SLOW
from tests.own_ports import own_ports
from tests.stack.foreign_page import ask_in_every_way, opens_a_socket, strangers_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

# A name that leads to 127.0.0.1; MLflow by itself lets one that begins like a private address read.
REBOUND = "10.evil.example"


@dataclass(frozen=True)
class Unguarded:
    """Servers as they come, without passwords; and Prefect with the check of pages alone."""

    prefect: str
    checked_prefect: str
    mlflow: str


@pytest.fixture(scope="module")
def unguarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Unguarded]:
    home = tmp_path_factory.mktemp("unguarded")
    put_blank_databases(home)
    prefect, checked, mlflow, _ = own_ports(28_000).values()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    env |= {
        "PREFECT_HOME": str(home / "stack" / "prefect"),
        "PREFECT_SERVER_UI_ENABLED": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    served = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(mlflow)]
    served += ["--backend-store-uri", f"sqlite:///{home / 'stack' / 'mlflow.db'}"]
    script = Path(__file__).with_name("unguarded.py")
    asked = [sys.executable, str(script), str(prefect), str(checked)]
    with (home / "log").open("w") as log:
        processes = [
            subprocess.Popen(command, env=env, cwd=home, stdout=log, stderr=log)
            for command in (asked, served)
        ]

    def check() -> None:
        assert [process.poll() for process in processes] == [None, None], (home / "log").read_text()[-3000:]

    urls = [f"http://127.0.0.1:{port}" for port in (prefect, checked, mlflow)]
    try:
        for url, path in zip(urls, ("/api/health", "/api/health", "/health"), strict=True):
            wait_until(url, lambda url=url, path=path: answers(url + path), check, 300)  # type: ignore[misc]
        yield Unguarded(*urls)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(60)


@pytest.fixture(scope="module")
def strangers() -> Iterator[list[str]]:
    """Pages of another port of this machine, and of another site."""
    with strangers_server() as port:
        yield [f"http://127.0.0.1:{port}", f"http://localhost:{port}", f"http://evil.example:{port}"]


@pytest.fixture
def visitor(chromium: "Browser", there: Endpoints) -> Iterator["BrowserContext"]:
    """The browser of somebody who has logged in to MLflow, and goes on to pages of strangers."""
    assert there.passwords
    known = {"username": "fedllm", "password": there.passwords.mlflow}
    context = chromium.new_context(http_credentials=known)  # type: ignore[arg-type]  # a TypedDict of just these
    context.set_default_timeout(SLOW)
    yield context
    context.close()


def pages(strangers: list[str], server: str) -> list[tuple[str, str]]:
    """Where a page is shown, and by which address it asks a server: also by a name of its own for it."""
    port = urlsplit(server).port
    return [*((page, server) for page in strangers), (f"http://{REBOUND}:{port}",) * 2]


def started(visitor: "BrowserContext", strangers: list[str], server: str) -> tuple[dict[str, int], list[str]]:
    """How many runs of a deployment each page starts at a Prefect, and which pages open a socket."""
    api = PrefectApi(f"{server}/api")
    flow = api.call("/flows/", {"name": "asked for by a page"})["id"]
    deployment = api.call("/deployments/", {"name": "victim", "flow_id": flow})["id"]
    wanted = {"deployments": {"id": {"any_": [deployment]}}}
    runs, sockets = {}, []
    for page, address in pages(strangers, server):
        before = api.call("/flow_runs/count", wanted)
        shown = visitor.new_page()
        shown.goto(page)
        url = f"{address}/api/deployments/{deployment}/create_flow_run"
        ask_in_every_way(shown, url, {}, access_to(f"{server}/api").authorization)
        if opens_a_socket(shown, f"{address.replace('http', 'ws')}/api/events/in"):
            sockets.append(page)
        shown.close()
        runs[page] = api.call("/flow_runs/count", wanted) - before
    return runs, sockets


def registered(visitor: "BrowserContext", strangers: list[str], server: str) -> list[str]:
    """The pages that register a model at an MLflow."""
    home = visitor.new_page()
    home.goto(server)  # its password is the browser's from here on
    for number, (page, address) in enumerate(pages(strangers, server)):
        shown = visitor.new_page()
        shown.goto(page)
        url = f"{address}/api/2.0/mlflow/registered-models/create"
        ask_in_every_way(shown, url, {"name": f"by page {number}"}, access_to(server).authorization)
        shown.close()
    home.close()
    found: dict[str, Any] = json.loads(http(f"{server}/api/2.0/mlflow/registered-models/search"))
    made = {model["name"] for model in found.get("registered_models", [])}
    return [page for number, (page, _) in enumerate(pages(strangers, server)) if f"by page {number}" in made]


def test_no_page_of_a_strangers_starts_a_run(
    visitor: "BrowserContext", strangers: list[str], there: Endpoints
) -> None:
    runs, sockets = started(visitor, strangers, there.prefect_ui_url)
    assert (set(runs.values()), sockets) == ({0}, [])


def test_no_page_of_a_strangers_starts_a_run_where_prefect_has_no_password(
    visitor: "BrowserContext", strangers: list[str], unguarded: Unguarded
) -> None:
    runs, sockets = started(visitor, strangers, unguarded.checked_prefect)
    assert (set(runs.values()), sockets) == ({0}, [])


def test_every_page_starts_runs_where_prefect_is_as_it_comes(
    visitor: "BrowserContext", strangers: list[str], unguarded: Unguarded
) -> None:
    runs, sockets = started(visitor, strangers, unguarded.prefect)
    assert min(runs.values()) > 0
    assert sockets == list(runs)


def test_no_page_of_a_strangers_registers_a_model(
    visitor: "BrowserContext", strangers: list[str], there: Endpoints
) -> None:
    assert registered(visitor, strangers, there.mlflow_url) == []


def test_pages_of_this_machine_register_models_where_mlflow_is_as_it_comes(
    visitor: "BrowserContext", strangers: list[str], unguarded: Unguarded
) -> None:
    assert registered(visitor, strangers, unguarded.mlflow) == strangers[:2]

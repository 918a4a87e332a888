"""One real stack for the whole file: the tests follow each other through its life."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from fedllm.config import load_federation
from fedllm.doctor.checkup import checkup
from fedllm.endpoints import Endpoints, endpoints
from fedllm.endpoints.passwords import passwords
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.endpoints.state import StackState
from fedllm.endpoints.store_users import store_secrets
from fedllm.stack import down, up
from fedllm.stack.access import access_to
from fedllm.stack.deploy import register_deployments
from fedllm.stack.health import PrefectApi, answers, health_urls, http
from fedllm.stack.programs import POOL, root_credentials
from fedllm.stack.schedules import resume_fitting
from fedllm.stack.supervise import Control, leftovers
from tests.own_ports import own_ports

ROOT = Path(__file__).parents[2]

FLOW = """
import os
from pathlib import Path
from prefect import flow

@flow
def tick(config_uri: str, rounds: int | None = None):
    Path(config_uri).read_text()
    Path(os.environ["FEDLLM_HOME"], "ticks").open("a").write(os.environ["MLFLOW_TRACKING_URI"] + "\\n")
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("a home with spaces") / "h"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLLM_HOME", str(folder))
        patch.delenv("PREFECT_API_URL", raising=False)
        # What `up` takes while nobody asks for others; a neighbour may be after the real ones just now.
        patch.setattr("fedllm.stack.local._USUAL", own_ports(24_000))
        yield folder
        down()


@pytest.fixture(scope="module")
def occupied() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.fixture(scope="module")
def stack(home: Path, occupied: int) -> Endpoints:
    place = StackPaths(home)
    place.create()
    StackState(ports={"minio": occupied}).save(place)  # last time's port, taken meanwhile
    return up()


def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(http(url, body)))


def runs(stack: Endpoints, state: str) -> list[dict[str, Any]]:
    wanted = {"flow_runs": {"state": {"type": {"any_": [state]}}}}
    return list(PrefectApi(stack.prefect_api_url).call("/flow_runs/filter", wanted))


def test_every_server_answers_and_another_port_was_found_for_the_occupied_one(
    stack: Endpoints, occupied: int
) -> None:
    urls = health_urls(stack)
    until(lambda: all(answers(url) for url in urls.values()), 60)  # a look gives each two seconds
    assert str(occupied) not in stack.minio_url + stack.door_url
    assert endpoints() == stack


@pytest.mark.usefixtures("stack")
def test_the_doctor_finds_the_stack_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedllm.doctor.checkup._PATIENCE", 60.0)
    servers = ("minio", "door", "prefect", "mlflow", "worker", "clock", "juicefs")
    found = {finding.name: finding.status for finding in checkup()}
    assert [found[name] for name in servers] == ["ok"] * len(servers)


def test_prefects_ui_is_served(stack: Endpoints) -> None:
    assert b"<html" in http(stack.prefect_ui_url).lower()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "10.evil.example"}, 403),  # MLflow by itself takes it for an address of a private network
        ({"Origin": "http://127.0.0.1:8000"}, 403),  # and trusts every page of this machine
        ({"Authorization": ""}, 401),
        ({"Authorization": f"Basic {base64.b64encode(b'fedllm:guessed').decode()}"}, 401),
    ],
)
def test_prefect_and_mlflow_answer_no_foreign_name_or_page(
    stack: Endpoints, headers: dict[str, str], status: int
) -> None:
    # A page that a browser shows may ask 127.0.0.1, and Prefect does what it is asked.
    api, tracking = stack.prefect_api_url, f"{stack.mlflow_url}/api/2.0/mlflow"
    for url, body in (
        (f"{api}/flows/filter", {}),
        (f"{api}/automations/filter", {}),
        (f"{tracking}/experiments/search", {"max_results": 1}),
    ):
        told = {"Authorization": access_to(url).authorization or "", **headers}
        found = httpx.post(url, json=body, headers=told, trust_env=False, timeout=60)
        assert found.status_code == status, url
        assert "access-control-allow-origin" not in found.headers


def test_a_foreign_pages_socket_to_prefect_is_refused(stack: Endpoints) -> None:
    address = stack.prefect_api_url.replace("http://", "ws://") + "/events/in"
    spoken = [Subprotocol("prefect")]  # a server with a password lets nobody in who speaks none
    foreign = Origin("http://evil.example")
    with (
        pytest.raises(InvalidStatus, match="403"),
        connect(address, origin=foreign, subprotocols=spoken, proxy=None),
    ):
        pass
    with connect(address, subprotocols=spoken, proxy=None):
        pass


def test_up_again_changes_nothing_and_takes_no_time(stack: Endpoints) -> None:
    before = Control(StackPaths.here()).pids()
    begun = time.monotonic()
    assert up() == stack
    assert time.monotonic() - begun < 30
    assert Control(StackPaths.here()).pids() == before


def test_files_with_secrets_are_the_owners_alone_and_only_loopback_listens(stack: Endpoints) -> None:
    place = StackPaths.here()
    drawn = passwords(place)
    secrets = (root_credentials(place)[1], store_secrets(place).mlflow, stack.minio_secret_key)
    secrets += (drawn.prefect, drawn.mlflow, drawn.mlflow_forms)
    files = [(path, read(path)) for path in place.folder.rglob("*") if path.is_file()]
    holders = [path for path, text in files if any(secret in text for secret in secrets)]
    # The store's own bytes, in a folder that is closed: it knows the secrets of its users.
    holders = [path for path in holders if path.parent == place.minio or place.minio not in path.parents]
    kept = {place.conf, place.client_env, place.minio / "root.json"}
    assert kept | {place.folder / f"{name}.json" for name in ("passwords", "store-users")} == set(holders)
    assert place.minio.stat().st_mode & 0o077 == 0
    assert {oct(path.stat().st_mode & 0o777) for path in [*holders, place.state]} == {"0o600"}
    assert place.folder.stat().st_mode & 0o077 == 0
    listening = [
        c for p in leftovers(place) for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN
    ]
    assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}
    assert stack.minio_secret_key not in repr(stack)


def read(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")


def test_mlflow_keeps_artifacts_in_minio(stack: Endpoints) -> None:
    created = post(f"{stack.mlflow_url}/api/2.0/mlflow/experiments/create", {"name": "kept"})
    assert created["experiment_id"]
    http(f"{stack.mlflow_url}/api/2.0/mlflow-artifacts/artifacts/card.md", "a card", method="PUT")
    from minio import Minio

    host = stack.minio_url.removeprefix("http://")
    client = Minio(host, *root_credentials(StackPaths.here()), secure=False, region="us-east-1")
    assert [found.object_name for found in client.list_objects("mlflow")] == ["card.md"]
    assert client.bucket_exists(stack.bucket)


def test_a_scheduled_deployment_fires_in_the_worker(stack: Endpoints, home: Path, tmp_path: Path) -> None:
    (tmp_path / "tick.py").write_text(FLOW)
    definition = tmp_path / "prefect.yaml"
    deployment = {
        "name": "often",
        "entrypoint": f"{tmp_path}/tick.py:tick",
        "parameters": {"config_uri": "{{ $FEDLLM_CONFIG }}", "rounds": None},
        "work_pool": {"name": POOL},
        # A process takes longer to begin than the schedule gives it: one at a time, or they pile up.
        "concurrency_limit": {"limit": 1, "collision_strategy": "CANCEL_NEW"},
        "schedules": [{"interval": 3, "slug": "often", "active": False}],
    }
    definition.write_text(yaml.safe_dump({"pull": [], "deployments": [deployment]}))
    config = ROOT / "params.yaml"
    api = PrefectApi(stack.prefect_api_url)

    assert register_deployments(
        config, stack.prefect_api_url, stack.environment(), definition=definition
    ) == ["tick/often"]
    assert api.deployments()["tick/often"]["schedules"][0]["active"] is False

    resume_fitting(api, load_federation(config), ["tick/often"])
    deadline = time.monotonic() + 300
    while not runs(stack, "COMPLETED"):
        assert time.monotonic() < deadline, (StackPaths.here().logs / "worker.log").read_text()[-2000:]
        assert not runs(stack, "FAILED") + runs(stack, "CRASHED")
        time.sleep(0.5)
    entry = api.deployments()["tick/often"]
    assert entry["parameters"] == {"config_uri": str(config), "rounds": None}
    assert (home / "ticks").read_text().splitlines()[0] == stack.mlflow_url
    api.set_schedule(entry["id"], entry["schedules"][0]["id"], active=False)


def test_a_killed_server_is_started_again(stack: Endpoints) -> None:
    control = Control(StackPaths.here())
    pid = control.pids()["minio"]
    psutil.Process(pid).kill()
    until(lambda: control.pids().get("minio", pid) != pid, 120)
    until(lambda: answers(f"{stack.minio_url}/minio/health/live"), 120)


def test_a_killed_mlflow_leaves_nothing_that_keeps_its_port_and_is_started_again_once(
    stack: Endpoints,
) -> None:
    """`mlflow server` has a child that listens, and leaves it behind when it is killed."""
    control = Control(StackPaths.here())
    pid = control.pids()["mlflow"]
    assert not psutil.Process(pid).children(recursive=True)
    psutil.Process(pid).kill()
    until(lambda: control.pids().get("mlflow", pid) != pid, 120)
    until(lambda: answers(f"{stack.mlflow_url}/health"), 240)
    again = control.pids()["mlflow"]
    time.sleep(6)  # it used to be started every five seconds, for ever
    assert control.pids()["mlflow"] == again


def test_down_leaves_no_process_and_no_port_even_when_supervisord_was_killed(stack: Endpoints) -> None:
    place = StackPaths.here()
    pids = {process.pid for process in leftovers(place)}
    supervisord = Control(place).pids()["supervisord"]
    assert supervisord in pids
    assert pids >= set(Control(place).pids().values())
    psutil.Process(supervisord).kill()
    assert down() is True
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    for url in (stack.minio_url, stack.prefect_ui_url, stack.mlflow_url):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(url.rsplit(":", 1)[1]))) != 0
    assert endpoints() is None
    assert down() is False


def test_after_down_and_up_the_same_records_are_at_the_same_addresses(stack: Endpoints) -> None:
    assert up() == stack
    assert runs(stack, "COMPLETED")
    search = post(f"{stack.mlflow_url}/api/2.0/mlflow/experiments/search", {"max_results": 10})
    assert "kept" in [experiment["name"] for experiment in search["experiments"]]
    pids = {process.pid for process in leftovers(StackPaths.here())}
    assert down() is True
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


@pytest.mark.servers
def test_help_of_the_verbs_needs_no_server(home: Path) -> None:
    code = (
        "import typer, fedllm.cli.stack as s, fedllm.cli.doctor as d; app = typer.Typer();"
        "s.register(app); d.register(app); app()"
    )
    env = os.environ | {"FEDLLM_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", code, "up", "--help"], env=env, capture_output=True, text=True, check=False
    )
    assert "--minio-port" in done.stdout

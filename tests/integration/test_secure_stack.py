"""`fedllm up --secure`: a whole training by TLS and passwords, with agents as processes of their own."""

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from playground import fedllm, said

from fedllm.doctor.checkup import checkup
from fedllm.endpoints import Endpoints, endpoints
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.endpoints.store_users import store_secrets
from fedllm.stack import down
from fedllm.stack.programs import root_credentials
from fedllm.stack.supervise import leftovers
from tests.own_ports import own_ports

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    """The stack in a home of its own. This process is told no more than FEDLLM_HOME, as a new terminal is."""
    home = tmp_path_factory.mktemp("secure") / "h"
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("PREFECT_", "MLFLOW_"))]:
            patch.delenv(name)
        patch.setenv("FEDLLM_HOME", str(home))
        try:
            ports = [f"--{name}-port={port}" for name, port in own_ports().items()]
            fedllm("up", "--secure", "--no-deploy", *ports)
            found = endpoints()
            assert found is not None
            yield found
        finally:
            down()


@pytest.fixture(scope="module")
def told(secure: Endpoints, federation: Path) -> dict[str, Any]:
    """What a whole training comes to."""
    assert secure.ca_file
    done = fedllm("run", str(federation), "--json")
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture
def stranger(secure: Endpoints) -> Iterator[httpx.Client]:
    """Someone who has the CA's certificate, which is public, and no password."""
    with httpx.Client(
        verify=ssl.create_default_context(cafile=str(secure.ca_file)), trust_env=False, timeout=30
    ) as client:
        yield client


def secrets_of(stack: Endpoints) -> list[str]:
    assert stack.passwords is not None
    drawn = stack.passwords
    place = StackPaths(stack.home)
    users = [user.secret for user in store_secrets(place).users()]
    return [drawn.prefect, drawn.mlflow, drawn.mlflow_forms, root_credentials(place)[1], *users]


def test_a_training_goes_through_and_its_version_is_registered(
    secure: Endpoints, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (told["status"], told["rounds"]) == ("completed", 2)
    assert told["model"]["uri"] == "models:/test/2"
    assert all(site["rounds"] == 2 for site in told["sites"].values())
    from mlflow import MlflowClient

    for name, value in secure.environment().items():
        monkeypatch.setenv(name, value)
    versions = MlflowClient(secure.mlflow_url).search_model_versions("name = 'test'")
    assert {version.tags["fed.run"] for version in versions} == {told["run_id"]}
    logs = sorted((secure.home / "simulated" / "test").glob("*/agent.log"))
    assert len(logs) == 3


def test_the_registered_model_is_fetched_and_answers(
    secure: Endpoints, told: dict[str, Any], federation: Path
) -> None:
    assert secure.ca_file
    text = ("--prompt", "wonderful bright", "--config", str(federation), "--json")
    done = fedllm("chat", told["model"]["uri"], *text)
    assert json.loads(done.stdout.splitlines()[-1])["answer"] in {"positive", "negative"}


def test_the_sites_believe_the_stacks_ca_and_no_other(secure: Endpoints, told: dict[str, Any]) -> None:
    assert told
    from fedllm.agent.join import accept_invitation
    from fedllm.errors import ExchangeError
    from fedllm.exchange.connect import connect

    home = secure.home / "simulated" / "test" / "clinic"
    invited = accept_invitation(home / "test.invitation", home).invitation
    assert invited.endpoint == secure.door_url
    assert invited.ca == secure.ca
    stranger = connect(invited.store_url, invited.endpoint, invited.region, "nobody", "knows")
    with pytest.raises(ExchangeError, match="not from a CA that is trusted here"):
        stranger.now()


@pytest.mark.parametrize("path", ["flows/filter", "admin/version", "work_pools/filter", "automations/count"])
def test_prefect_tells_a_stranger_nothing(secure: Endpoints, stranger: httpx.Client, path: str) -> None:
    url = f"{secure.prefect_api_url}/{path}"
    assert stranger.post(url, json={}).status_code == 401
    assert stranger.get(url).status_code == 401
    assert stranger.get(url, auth=("fedllm", "guessed")).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "events/in",
        "events/out",
        "logs/out",
        "work_pools/fedllm/workers/connect",
        "task_runs/subscriptions/scheduled",
    ],
)
def test_prefects_sockets_tell_a_stranger_nothing(secure: Endpoints, path: str) -> None:
    from websockets.asyncio.client import connect
    from websockets.exceptions import WebSocketException

    url = f"{secure.prefect_api_url.replace('https', 'wss')}/{path}"
    context = ssl.create_default_context(cafile=str(secure.ca_file))

    async def listen() -> str:
        async with connect(
            url, ssl=context, proxy=None, subprotocols=["prefect"], open_timeout=60
        ) as socket_:
            await socket_.send(json.dumps({"type": "auth", "token": "guessed"}))
            answer = await asyncio.wait_for(socket_.recv(), 60)
            return str(json.loads(answer)["type"])

    with suppress(WebSocketException):  # refused before a word was said
        assert asyncio.run(listen()) == "auth_failure"


@pytest.mark.parametrize("path", ["", "version", "api/2.0/mlflow/experiments/search?max_results=1"])
def test_mlflow_tells_a_stranger_nothing(secure: Endpoints, stranger: httpx.Client, path: str) -> None:
    url = f"{secure.mlflow_url}/{path}"
    assert stranger.get(url).status_code == 401
    assert stranger.get(url, auth=("fedllm", "guessed")).status_code == 401


def test_nothing_is_served_in_the_clear(secure: Endpoints) -> None:
    for url in (secure.minio_url, secure.door_url, secure.prefect_ui_url, secure.mlflow_url):
        plain = url.replace("https://", "http://")
        try:
            status = httpx.get(f"{plain}/api/health", trust_env=False, timeout=30).status_code
        except httpx.TransportError:
            continue
        assert status == 400, url  # MinIO and nginx say in the clear that they want TLS, and no more


def test_old_protocols_are_refused(secure: Endpoints) -> None:
    for url in (secure.minio_url, secure.door_url, secure.prefect_ui_url, secure.mlflow_url):
        context = ssl.create_default_context(cafile=str(secure.ca_file))
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as raw, pytest.raises((ssl.SSLError, OSError)):
            context.wrap_socket(raw, server_hostname="127.0.0.1")


def test_secrets_are_in_files_of_their_owner_and_nowhere_else(
    secure: Endpoints, told: dict[str, Any]
) -> None:
    place = StackPaths(secure.home)
    hidden = secrets_of(secure)
    holders = [
        path
        for path in secure.home.rglob("*")
        if path.is_file() and any(secret in path.read_bytes().decode(errors="replace") for secret in hidden)
    ]
    # The store's own bytes, in a folder that is closed: it knows the secrets of its users.
    holders = [path for path in holders if path.parent == place.minio or place.minio not in path.parents]
    assert place.minio.stat().st_mode & 0o077 == 0
    kept = {place.conf, place.client_env, place.minio / "root.json"}
    kept |= {place.folder / "passwords.json", place.folder / "store-users.json"}
    assert set(holders) == kept
    assert {oct(path.stat().st_mode & 0o777) for path in holders} == {"0o600"}
    shown = [repr(secure), json.dumps(told)]
    shown += [" ".join(process.cmdline()) for process in leftovers(place)]
    shown.append(fedllm("up", "--no-deploy", "--json").stdout)
    assert not [text for text in shown for secret in hidden if secret in text]
    keys = [secure.home / "ca" / "ca.key", secure.home / "ca" / "server.key"]
    keys.append(place.minio_home / ".minio" / "certs" / "private.key")
    assert {oct(path.stat().st_mode & 0o777) for path in keys} == {"0o600"}


def test_a_shell_that_reads_the_clients_file_reaches_prefect(secure: Endpoints) -> None:
    line = f'. "{StackPaths(secure.home).client_env}"; exec "{sys.executable}" -m prefect work-pool ls'
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fedllm" in done.stdout


def test_doctor_finds_it_sound_and_tells_how_long_the_certificates_last(
    secure: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedllm.doctor.checkup._PATIENCE", 60.0)
    found = {finding.name: finding for finding in checkup()}
    for name in ("minio", "door", "prefect", "mlflow", "worker", "private CA", "certificate", "clock"):
        assert found[name].status == "ok", found[name]
    assert "127.0.0.1, localhost" in found["certificate"].detail
    assert secure.minio_url in found["minio"].detail


def test_switching_the_checks_off_is_refused_with_the_variables_name(
    secure: Endpoints, federation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert secure.ca_file
    for name in ("PREFECT_API_TLS_INSECURE_SKIP_VERIFY", "MLFLOW_TRACKING_INSECURE_TLS"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "true")
            for verb in (("up", "--no-deploy"), ("run", str(federation))):
                done = fedllm(*verb, check=False)
                assert done.returncode != 0
                assert name in said(done)


def test_up_the_other_way_says_what_to_do(secure: Endpoints) -> None:
    before = {process.pid for process in leftovers(StackPaths(secure.home))}
    done = fedllm("up", "--no-secure", "--no-deploy", check=False)
    assert done.returncode != 0
    assert "`fedllm down`, then `fedllm up --no-secure`" in said(done)
    assert {process.pid for process in leftovers(StackPaths(secure.home))} == before


def test_down_ends_it_all(secure: Endpoints) -> None:
    pids = [process.pid for process in leftovers(StackPaths(secure.home))]
    assert pids
    fedllm("down")
    assert not [pid for pid in pids if psutil.pid_exists(pid)]

"""Health checks of the servers and calls of Prefect's API, over HTTP(S)."""

import json
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httpx
import stamina

from fedllm.errors import StackError
from fedllm.secure.trust import why_untrusted
from fedllm.stack.access import access_to

if TYPE_CHECKING:
    from fedllm.endpoints.addresses import Endpoints

_INTERVAL = 0.1  # s between checks
_PATIENCE = 60.0  # s; Prefect's own client waits as long (PREFECT_API_REQUEST_TIMEOUT)


def http(url: str, body: object = None, *, method: str | None = None, timeout: float = 10.0) -> bytes:
    """Send one HTTP request with a JSON body and return the response's content; loopback uses no proxy.

    Raises:
        httpx.HTTPStatusError: the server answers with an error.
        httpx.TransportError: the server does not answer.
        StackError: the server's certificate is not trusted.
    """
    method = method or ("GET" if body is None else "POST")
    return _request(method, url, body, timeout).raise_for_status().content


def _request(method: str, url: str, body: object, timeout: float) -> httpx.Response:
    try:
        with access_to(url).client(timeout) as client:
            return client.request(method, url, json=body)
    except httpx.TransportError as error:
        if why := why_untrusted(error):
            raise StackError(f"{url} is not trusted: {why}") from None
        raise


def answers(url: str, patience: float = 2.0) -> bool:
    """Return whether a URL answers with success within `patience` seconds.

    Raises:
        StackError: the server's certificate is not trusted.
    """
    try:
        http(url, timeout=patience)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return True


def response_date(url: str) -> str | None:
    """Return the `Date` header of a server's answer, which may be an error.

    Raises:
        httpx.TransportError: the server does not answer.
        StackError: the server's certificate is not trusted.
    """
    date: str | None = _request("GET", url, None, 5.0).headers.get("Date")
    return date


def health_urls(endpoints: "Endpoints") -> dict[str, str]:
    """Return the URL of each server's health check, by name."""
    return {
        "minio": f"{endpoints.minio_url}/minio/health/live",
        "door": f"{endpoints.door_url}/health",
        "prefect": f"{endpoints.prefect_api_url.rstrip('/')}/health",
        "mlflow": f"{endpoints.mlflow_url}/health",
    }


def wait_until(
    name: str,
    ready: Callable[[], bool],
    check: Callable[[], None],
    seconds: float,
    reason: Callable[[], str] = str,
) -> None:
    """Wait for a server.

    Args:
        name: the server's name in the error.
        ready: returns whether the server is ready.
        check: raises as soon as waiting is pointless.
        seconds: how long to wait.
        reason: returns text that the error appends.

    Raises:
        StackError: the server is not ready in time.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        check()
        if time.monotonic() > deadline:
            raise StackError(f"{name} did not answer within {seconds:.0f} s{reason()}")
        time.sleep(_INTERVAL)


def _busy(error: Exception) -> bool:
    """Return whether Prefect answered 503, as it does while its SQLite is locked for a moment."""
    return (
        isinstance(error, httpx.HTTPStatusError)
        and error.response.status_code == HTTPStatus.SERVICE_UNAVAILABLE
    )


class PrefectApi:
    """The calls of Prefect's REST API that the stack needs, without importing Prefect.

    Args:
        url: the API's root.
        patience: s that a request may take.
    """

    def __init__(self, url: str, patience: float = _PATIENCE) -> None:
        self.url = url.rstrip("/")
        self._patience = patience

    def call(self, path: str, body: object = None, *, method: str | None = None) -> Any:  # noqa: ANN401 - JSON
        """Send a request below the API's root. Raises `StackError` if Prefect refuses or does not answer."""
        try:
            for attempt in stamina.retry_context(on=_busy, attempts=6, timeout=30 + self._patience):
                with attempt:
                    answer = http(f"{self.url}{path}", body, method=method, timeout=self._patience)
        except httpx.HTTPStatusError as error:
            refusal = f"{error.response.status_code} {error.response.text[:200]}"
            raise StackError(f"Prefect refused {path}: {refusal}") from None
        except httpx.TransportError as error:
            raise StackError(f"Prefect at {self.url} does not answer: {error}") from None
        return json.loads(answer) if answer else None

    def ensure_pool(self, name: str) -> None:
        """Create a process work pool unless it exists; its worker provides the job template."""
        body = {"work_pools": {"name": {"any_": [name]}}}
        if not self.call("/work_pools/filter", body):
            self.call("/work_pools/", {"name": name, "type": "process"})

    def pause_pool(self, name: str) -> None:
        """Pause a work pool: no run of it starts until a person resumes it."""
        self.call(f"/work_pools/{name}", {"is_paused": True}, method="PATCH")

    def heartbeat(self, pool: str, worker: str) -> str | None:
        """Return the time of a worker's last heartbeat, by the server's clock; None if it is offline."""
        body = {"workers": {"status": {"any_": ["ONLINE"]}}}
        for entry in self.call(f"/work_pools/{pool}/workers/filter", body):
            if entry["name"] == worker:
                return str(entry["last_heartbeat_time"])
        return None

    def discard_runs(self, pool: str) -> int:
        """Mark the runs of a dead worker as crashed, which frees their slots, and return their count."""
        body = {
            "work_pools": {"name": {"any_": [pool]}},
            "flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}},
        }
        runs = self.call("/flow_runs/filter", body)
        for run in runs:
            state = {"type": "CRASHED", "message": "The stack went down during this run."}
            self.call(f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
        return len(runs)

    def deployments(self) -> dict[str, dict[str, Any]]:
        """Return every deployment, by `flow/name`."""
        flows = {flow["id"]: flow["name"] for flow in self.call("/flows/filter", {})}
        entries = self.call("/deployments/filter", {})
        return {f"{flows.get(d['flow_id'], '?')}/{d['name']}": d for d in entries}

    def set_schedule(self, deployment: str, schedule: str, *, active: bool) -> None:
        """Resume or pause a schedule; deployment and schedule are ids."""
        self.call(f"/deployments/{deployment}/schedules/{schedule}", {"active": active}, method="PATCH")


def free_port(wanted: int) -> bool:
    """Return whether a loopback port is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return False
    return True


def choose_port(name: str, requested: int | None, remembered: int | None, usual: int, taken: set[int]) -> int:
    """Return the requested port, else the last one, else the usual one, else any free port.

    Raises:
        StackError: the requested port is in use.
    """
    if requested is not None:
        if requested in taken or not free_port(requested):
            raise StackError(f"port {requested} for {name} is in use: choose another with --{name}-port")
        return requested
    for port in (remembered, usual):
        if port is not None and port not in taken and free_port(port):
            return port
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port

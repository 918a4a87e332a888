"""Whether the servers answer, asked over HTTP(S)."""

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

_INTERVAL = 0.1  # s between looks
_PATIENCE = 60.0  # s; Prefect's own client waits as long (PREFECT_API_REQUEST_TIMEOUT)


def http(url: str, body: object = None, *, method: str | None = None, timeout: float = 10.0) -> bytes:
    """One HTTP request, JSON in; a proxy is never asked for loopback.

    Raises:
        httpx.HTTPStatusError: it answers with an error.
        httpx.TransportError: nothing answers.
        StackError: the server's certificate is not to be trusted.
    """
    asked = method or ("GET" if body is None else "POST")
    return _answer(asked, url, body, timeout).raise_for_status().content


def _answer(method: str, url: str, body: object, timeout: float) -> httpx.Response:
    try:
        with access_to(url).client(timeout) as client:
            return client.request(method, url, json=body)
    except httpx.TransportError as error:
        if why := why_untrusted(error):
            raise StackError(f"{url} is not trusted: {why}") from None
        raise


def answers(url: str, patience: float = 2.0) -> bool:
    """Whether a URL answers with success, within `patience` seconds.

    Raises:
        StackError: its certificate is not to be trusted.
    """
    try:
        http(url, timeout=patience)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return True


def response_date(url: str) -> str | None:
    """The `Date` header that a server puts on any answer, an error's too.

    Raises:
        httpx.TransportError: nothing answers.
        StackError: the server's certificate is not to be trusted.
    """
    date: str | None = _answer("GET", url, None, 5.0).headers.get("Date")
    return date


def health_urls(found: "Endpoints") -> dict[str, str]:
    """Each server's own health page."""
    return {
        "minio": f"{found.minio_url}/minio/health/live",
        "door": f"{found.door_url}/health",
        "prefect": f"{found.prefect_api_url.rstrip('/')}/health",
        "mlflow": f"{found.mlflow_url}/health",
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
        name: as the error names it.
        ready: whether it is there.
        check: raises as soon as waiting has become pointless.
        seconds: how long to wait.
        reason: what the error says beside that the time is over.

    Raises:
        StackError: when the time is over.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        check()
        if time.monotonic() > deadline:
            raise StackError(f"{name} did not answer within {seconds:.0f} s{reason()}")
        time.sleep(_INTERVAL)


def _busy(error: Exception) -> bool:
    """Whether Prefect said to come back: its SQLite is locked for a moment now and then."""
    return (
        isinstance(error, httpx.HTTPStatusError)
        and error.response.status_code == HTTPStatus.SERVICE_UNAVAILABLE
    )


class PrefectApi:
    """The few calls of Prefect's REST API that the stack needs, without importing Prefect.

    Args:
        url: the API's root.
        patience: seconds that a request may take.
    """

    def __init__(self, url: str, patience: float = _PATIENCE) -> None:
        self.url = url.rstrip("/")
        self._patience = patience

    def call(self, path: str, body: object = None, *, method: str | None = None) -> Any:  # noqa: ANN401 - JSON
        """One request below the API's root. Raises `StackError` when it is refused or nobody answers."""
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
        """Create a process work pool unless there is one; its worker brings the job template."""
        body = {"work_pools": {"name": {"any_": [name]}}}
        if not self.call("/work_pools/filter", body):
            self.call("/work_pools/", {"name": name, "type": "process"})

    def pause_pool(self, name: str) -> None:
        """Let no run of a work pool start until a person resumes it."""
        self.call(f"/work_pools/{name}", {"is_paused": True}, method="PATCH")

    def heartbeat(self, pool: str, worker: str) -> str | None:
        """When a worker was last heard of, by the server's clock, or None when it is offline."""
        body = {"workers": {"status": {"any_": ["ONLINE"]}}}
        for found in self.call(f"/work_pools/{pool}/workers/filter", body):
            if found["name"] == worker:
                return str(found["last_heartbeat_time"])
        return None

    def bury(self, pool: str) -> int:
        """Mark runs that a dead worker left behind as crashed, so that they hold no slot; say how many."""
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
        """Every deployment, by `flow/name`."""
        flows = {flow["id"]: flow["name"] for flow in self.call("/flows/filter", {})}
        found = self.call("/deployments/filter", {})
        return {f"{flows.get(d['flow_id'], '?')}/{d['name']}": d for d in found}

    def set_schedule(self, deployment: str, schedule: str, *, active: bool) -> None:
        """Resume or pause one schedule; both are named by id."""
        self.call(f"/deployments/{deployment}/schedules/{schedule}", {"active": active}, method="PATCH")


def free_port(wanted: int) -> bool:
    """Whether a loopback port can be listened on now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return False
    return True


def choose_port(name: str, asked: int | None, remembered: int | None, usual: int, taken: set[int]) -> int:
    """The port asked for, else the one of last time, else the usual one, else any that is free.

    Raises:
        StackError: when the port asked for is in use.
    """
    if asked is not None:
        if asked in taken or not free_port(asked):
            raise StackError(f"port {asked} for {name} is in use: choose another with --{name}-port")
        return asked
    for port in (remembered, usual):
        if port is not None and port not in taken and free_port(port):
            return port
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port

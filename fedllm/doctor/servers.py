"""Check the stack's servers: their health, versions, work pool and certificates."""

from collections.abc import Iterator
from datetime import timedelta
from http import HTTPStatus
from importlib import metadata
from pathlib import Path

import httpx

from fedllm.doctor.finding import Finding, fail, ok, warn
from fedllm.endpoints.addresses import Endpoints
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.errors import FedllmError
from fedllm.secure.ca import LOOPBACK, RENEWAL, validity
from fedllm.stack.health import PrefectApi, answers, health_urls, http
from fedllm.stack.minio import has_volume
from fedllm.stack.programs import POOL
from fedllm.stack.supervise import Control

CA_NOTICE = timedelta(days=180)  # when the CA expires, every site needs a new invitation
HEAL = "`fedllm up` heals it"


def health(endpoints: Endpoints, patience: float) -> Iterator[Finding]:
    """Check that each server answers its health check within `patience` seconds."""
    control = Control(StackPaths(endpoints.home))
    for name, url in health_urls(endpoints).items():
        try:
            healthy = answers(url, patience)
        except FedllmError as error:
            yield fail(name, str(error), "`fedllm down`, then `fedllm up`")
            continue
        if healthy:
            yield ok(name, url)
        else:
            yield fail(name, f"{url} does not answer: {control.last_error(name)}", HEAL)


def store_folder(place: StackPaths) -> Iterator[Finding]:
    """Check that the store's folder exists."""
    if has_volume(place.minio):
        yield ok("store folder", str(place.minio))
    else:
        detail = f"{place.minio} was removed while the store serves it: every request is refused"
        yield fail("store folder", detail, "`fedllm up` creates it again, empty, with its users")


def prefect_version(api: PrefectApi) -> Iterator[Finding]:
    """Check that Prefect's client and server have the same version."""
    yield _versions("prefect version", "prefect", str(api.call("/admin/version")))


def mlflow_version(url: str) -> Iterator[Finding]:
    """Check that MLflow's client and server have the same version."""
    try:
        server = http(f"{url.rstrip('/')}/version").decode().strip()
    except httpx.HTTPStatusError as error:
        if error.response.status_code not in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise
        yield ok("mlflow version", f"{url} shows it only to its accounts")
        return
    yield _versions("mlflow version", "mlflow", server)


def _versions(name: str, package: str, server: str) -> Finding:
    client = metadata.version(package)
    if server == client:
        return ok(name, f"{server}, here and there")
    return fail(name, f"server {server}, here {client}", f"pip install {package}=={server}")


def worker(api: PrefectApi) -> Iterator[Finding]:
    """Check that the work pool is not paused and has a worker."""
    pools = api.call("/work_pools/filter", {"work_pools": {"name": {"any_": [POOL]}}})
    if not pools:
        yield fail("work pool", f"there is no work pool {POOL}", "`fedllm up` creates it")
        return
    if pools[0]["is_paused"]:
        resume = f"`prefect work-pool resume {POOL}`, or its page in Prefect"
        yield warn("work pool", f"{POOL} is paused: no run starts", resume)
    else:
        yield ok("work pool", f"{POOL}, of type {pools[0]['type']}")
    wanted = {"workers": {"status": {"any_": ["ONLINE"]}}}
    online = api.call(f"/work_pools/{POOL}/workers/filter", wanted)
    if online:
        last = max(online, key=lambda entry: str(entry["last_heartbeat_time"]))
        yield ok("worker", f"{last['name']}, last heartbeat at {last['last_heartbeat_time']}")
    else:
        yield fail("worker", f"none is online in the work pool {POOL}", HEAL)


def certificates(folder: Path) -> Iterator[Finding]:
    """Check the remaining time of the CA and the servers' certificate, and the latter's hosts."""
    for name, file, least, remedy in (
        ("private CA", "ca.crt", CA_NOTICE, f"move {folder} away, `fedllm up`, invite the sites anew"),
        ("certificate", "server.crt", RENEWAL, "`fedllm up` renews it"),
    ):
        try:
            certificate = validity(folder / file)
        except FedllmError as error:
            yield fail(name, str(error), remedy)
            continue
        until = f"until {certificate.ends:%Y-%m-%d}"
        if missing := set(LOOPBACK) - set(certificate.hosts) if file == "server.crt" else set():
            yield fail(name, f"not for {', '.join(sorted(missing))}", "`fedllm ca` makes another")
        elif certificate.left.total_seconds() <= 0:
            yield fail(name, f"expired: {until}", remedy)
        elif certificate.left < least:
            yield warn(name, until, remedy)
        else:
            hosts = f", for {', '.join(certificate.hosts)}" if certificate.hosts else ""
            yield ok(name, until + hosts)

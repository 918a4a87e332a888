"""The stack's servers: whether they answer, in which version, and by which certificates."""

from collections.abc import Iterator
from datetime import timedelta
from http import HTTPStatus
from importlib import metadata
from pathlib import Path

import httpx

from fedllm.doctor.finding import Finding, fail, ok, warn
from fedllm.endpoints.addresses import Endpoints
from fedllm.endpoints.place import Place
from fedllm.errors import FedllmError
from fedllm.secure.ca import LOOPBACK, RENEWAL, validity
from fedllm.stack.health import PrefectApi, answers, health_urls, http
from fedllm.stack.minio import has_volume
from fedllm.stack.programs import POOL
from fedllm.stack.supervise import Control

CA_NOTICE = timedelta(days=180)  # every site needs a new invitation when the authority ends
HEAL = "`fedllm up` heals it"


def health(found: Endpoints, patience: float) -> Iterator[Finding]:
    """Each server's own word that it lives, waited for `patience` seconds."""
    control = Control(Place(found.home))
    for name, url in health_urls(found).items():
        try:
            there = answers(url, patience)
        except FedllmError as error:
            yield fail(name, str(error), "`fedllm down`, then `fedllm up`")
            continue
        if there:
            yield ok(name, url)
        else:
            yield fail(name, f"{url} does not answer: {control.last_words(name)}", HEAL)


def store_folder(place: Place) -> Iterator[Finding]:
    """The folder that the store keeps its bytes in is there."""
    if has_volume(place.minio):
        yield ok("store folder", str(place.minio))
    else:
        detail = f"{place.minio} was removed while the store serves it: every request is refused"
        yield fail("store folder", detail, "`fedllm up` makes it anew, empty, with its users")


def prefect_version(api: PrefectApi) -> Iterator[Finding]:
    """Prefect's client and server are the same."""
    yield _versions("prefect version", "prefect", str(api.call("/admin/version")))


def mlflow_version(url: str) -> Iterator[Finding]:
    """MLflow's client and server are the same."""
    try:
        server = http(f"{url.rstrip('/')}/version").decode().strip()
    except httpx.HTTPStatusError as error:
        if error.response.status_code not in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise
        yield ok("mlflow version", f"{url} tells it only to whom it knows")
        return
    yield _versions("mlflow version", "mlflow", server)


def _versions(name: str, package: str, server: str) -> Finding:
    client = metadata.version(package)
    if server == client:
        return ok(name, f"{server}, here and there")
    return fail(name, f"server {server}, here {client}", f"pip install {package}=={server}")


def worker(api: PrefectApi) -> Iterator[Finding]:
    """The work pool takes runs, and somebody runs them."""
    pools = api.call("/work_pools/filter", {"work_pools": {"name": {"any_": [POOL]}}})
    if not pools:
        yield fail("work pool", f"there is no work pool {POOL}", "`fedllm up` makes it")
        return
    if pools[0]["is_paused"]:
        resume = f"`prefect work-pool resume {POOL}`, or its page in Prefect"
        yield warn("work pool", f"{POOL} is paused: no run starts", resume)
    else:
        yield ok("work pool", f"{POOL}, of type {pools[0]['type']}")
    wanted = {"workers": {"status": {"any_": ["ONLINE"]}}}
    online = api.call(f"/work_pools/{POOL}/workers/filter", wanted)
    if online:
        last = max(online, key=lambda one: str(one["last_heartbeat_time"]))
        yield ok("worker", f"{last['name']}, last heard of at {last['last_heartbeat_time']}")
    else:
        yield fail("worker", f"none is online in the work pool {POOL}", HEAL)


def certificates(folder: Path) -> Iterator[Finding]:
    """How long the authority and the servers' certificate last, and for which hosts that one is."""
    for name, file, least, remedy in (
        ("private CA", "ca.crt", CA_NOTICE, f"move {folder} away, `fedllm up`, invite the sites anew"),
        ("certificate", "server.crt", RENEWAL, "`fedllm up` renews it"),
    ):
        try:
            found = validity(folder / file)
        except FedllmError as error:
            yield fail(name, str(error), remedy)
            continue
        until = f"until {found.ends:%Y-%m-%d}"
        if missing := set(LOOPBACK) - set(found.hosts) if file == "server.crt" else set():
            yield fail(name, f"not for {', '.join(sorted(missing))}", "`fedllm ca` makes another")
        elif found.left.total_seconds() <= 0:
            yield fail(name, f"expired: {until}", remedy)
        elif found.left < least:
            yield warn(name, until, remedy)
        else:
            yield ok(name, until + (f", for {', '.join(found.hosts)}" if found.hosts else ""))

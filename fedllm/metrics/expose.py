"""Expose metrics by an HTTP endpoint, or by a file for node exporter's textfile collector."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm.errors import ConfigError

if TYPE_CHECKING:
    from prometheus_client.registry import Collector, CollectorRegistry

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
EVERY = 15.0  # s between two writes of the file


def registry_of(*collectors: "Collector") -> "CollectorRegistry":
    """Return a registry of these collectors only, without metrics of this process."""
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return registry


@contextmanager
def served(registry: "CollectorRegistry", port: int, host: str = LOOPBACK) -> Iterator[int]:
    """Answer `GET /metrics` inside the block.

    Args:
        registry: the metrics.
        port: to listen on; 0 takes a free one.
        host: the address; there is no password, so anybody who reaches it can read.

    Yields:
        The port.

    Raises:
        ConfigError: The port is not available.
    """
    from prometheus_client import start_http_server

    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"metrics cannot be served on {host} port {port}: {error}") from None
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def kept_in_file(registry: "CollectorRegistry", path: Path, every: float = EVERY) -> Iterator[None]:
    """Write the metrics to a file on entry, then periodically inside the block, and on exit.

    Args:
        registry: the metrics.
        path: the file; each write replaces it atomically.
        every: s between two writes.

    Raises:
        ConfigError: The file cannot be written on entry or on exit.
    """
    stop = threading.Event()

    def rewrite() -> None:
        while not stop.wait(every):
            try:
                write(registry, path)
            except ConfigError as error:
                log.warning("%s", error)  # for example a full disk: the next write may succeed

    write(registry, path)
    thread = threading.Thread(target=rewrite, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        write(registry, path)


def write(registry: "CollectorRegistry", path: Path) -> None:
    """Write the metrics to a file, replacing it atomically. Raises `ConfigError`."""
    from prometheus_client import write_to_textfile

    try:
        write_to_textfile(str(path), registry)
    except OSError as error:
        raise ConfigError(f"metrics cannot be written to {path}: {error.strerror}") from None

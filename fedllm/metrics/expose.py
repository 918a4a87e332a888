"""Two ways to show metrics: an HTTP endpoint, or a file for node exporter's textfile collector."""

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
EVERY = 15.0  # s between two writes of a file


def registry_of(*collectors: "Collector") -> "CollectorRegistry":
    """A registry of these alone: nothing is told of the process that happens to ask."""
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return registry


@contextmanager
def served(registry: "CollectorRegistry", port: int, host: str = LOOPBACK) -> Iterator[int]:
    """Answer `GET /metrics` while the block lasts.

    Args:
        registry: what is told.
        port: to listen on; 0 takes a free one.
        host: the address; whoever reaches it can read, there is no password.

    Yields:
        The port.

    Raises:
        ConfigError: the port cannot be had.
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
    """Write the metrics to a file, whole each time, at once and then again while the block lasts.

    Raises:
        ConfigError: the file cannot be written.
    """
    stop = threading.Event()

    def again() -> None:
        while not stop.wait(every):
            try:
                write(registry, path)
            except ConfigError as error:
                log.warning("%s", error)  # a full disk, say: the next time may be better

    write(registry, path)
    thread = threading.Thread(target=again, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        write(registry, path)


def write(registry: "CollectorRegistry", path: Path) -> None:
    """Write the metrics to a file, in place of the one before. Raises `ConfigError`."""
    from prometheus_client import write_to_textfile

    try:
        write_to_textfile(str(path), registry)
    except OSError as error:
        raise ConfigError(f"metrics cannot be written to {path}: {error.strerror}") from None

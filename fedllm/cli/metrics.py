"""The verb `fedllm metrics`: expose the coordinator's metrics to Prometheus."""

import signal
import threading
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated

import typer

from fedllm.cli.options import FEDERATION, AsJson, Config
from fedllm.cli.output import console, emit
from fedllm.config import load_federation
from fedllm.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(metrics)


def metrics(
    *,
    config: Config = FEDERATION,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to answer; 0 takes a free one.")] = 9464,
    host: Annotated[
        str, typer.Option(help="The address to listen on; whoever reaches it can read.")
    ] = "127.0.0.1",
    once: Annotated[bool, typer.Option("--once", help="Tell them once and end; nothing listens.")] = False,
    textfile: Annotated[
        Path | None, typer.Option(help="Keep them in this file (node exporter's *.prom); nothing listens.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Prometheus metrics of a federation, counted from the coordinator's journal, until it is stopped.

    They survive restarts, and a training need not run: scrape this instead of the short-lived flows.
    """
    if textfile is not None and textfile.suffix != ".prom":
        raise ConfigError(f"--textfile {textfile}: node exporter reads files named *.prom alone")
    from prometheus_client import generate_latest

    from fedllm.journal.journal import Journal
    from fedllm.metrics.coordinator import CoordinatorMetrics
    from fedllm.metrics.expose import kept_in_file, registry_of, served, write

    federation = load_federation(config)
    payload: dict[str, object] = {"schema": "fedllm.metrics/1", "federation": federation.name}
    with closing(Journal(federation.name)) as journal, ExitStack() as stack:
        registry = registry_of(CoordinatorMetrics(federation, journal))
        if once:
            text = generate_latest(registry).decode()
            if textfile is not None:
                write(registry, textfile)
                emit(as_json, payload | {"textfile": str(textfile)}, f"metrics are in {textfile}")
            else:
                emit(as_json, payload | {"text": text}, text.rstrip())
            return
        stop = _stopped()
        if textfile is not None:
            stack.enter_context(kept_in_file(registry, textfile))
            emit(as_json, payload | {"textfile": str(textfile)})
            console().print(f"metrics of {federation.name} are kept in {textfile}")
        else:
            bound_port = stack.enter_context(served(registry, port, host))
            address = f"http://{host}:{bound_port}/metrics"
            emit(as_json, payload | {"address": address})
            console().print(f"metrics of {federation.name} at {address}")
        stop.wait()


def _stopped() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop

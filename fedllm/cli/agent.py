"""`fedllm agent`: a site takes part until it is told to stop."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedllm.errors import ConfigError

if TYPE_CHECKING:
    from fedllm.agent.agent import Agent


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(agent)


def agent(
    *,
    invitation: Annotated[Path, typer.Option(help="The file that the coordinator made for this site.")],
    home: Annotated[
        Path | None, typer.Option(help="The site's folder, from `site init`. Default: the only one there is.")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="Log to this file instead of stderr.")] = None,
    coordinator: Annotated[
        str | None, typer.Option(help="The coordinator's fingerprint, as told over the telephone.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Answer Prometheus on this port of 127.0.0.1.")
    ] = None,
    metrics_textfile: Annotated[
        Path | None, typer.Option(help="Keep metrics in this file (node exporter's *.prom); nothing listens.")
    ] = None,
    with_parent: Annotated[int | None, typer.Option(hidden=True, help="Stop when this process does.")] = None,
) -> None:
    """Take part in a federation: answer plans by this site's policy, train, send sealed updates."""
    from fedllm.agent.agent import Agent, log_to
    from fedllm.agent.join import accept_invitation, only_home
    from fedllm.agent.worker import ChildTrainer
    from fedllm.config.home import refuse_half_restored
    from fedllm.secure.identity import fingerprint

    refuse_half_restored(home)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if with_parent is not None:
        threading.Thread(target=_watch_parent, args=(with_parent, stop), daemon=True).start()
    log_to(log)
    member = accept_invitation(invitation, home or only_home(), expected=coordinator)
    mark = fingerprint(member.invitation.coordinator)
    logging.getLogger(__name__).info("%s takes part; the coordinator is %s", member.site.name, mark)
    # A simulated site's former agent may still be on its way out after its parent was killed.
    here = Agent(member, ChildTrainer(), patience=0.0 if with_parent is None else 30.0)
    try:
        with _measured(here, metrics_port, metrics_textfile):
            here.run(stop)
    finally:
        here.close()


@contextmanager
def _measured(here: "Agent", port: int | None, textfile: Path | None) -> Iterator[None]:
    """Show the site's own metrics where its owner wants them; they are told to nobody else."""
    if port is None and textfile is None:
        yield
        return
    if textfile is not None and textfile.suffix != ".prom":
        raise ConfigError(f"--metrics-textfile {textfile}: node exporter reads files named *.prom alone")
    from fedllm.metrics.expose import kept_in_file, registry_of, served
    from fedllm.metrics.site import SiteMetrics

    registry = registry_of(SiteMetrics(here.memory, here.duty.accounts, lambda: here.contact))
    with ExitStack() as stack:
        if port is not None:
            taken = stack.enter_context(served(registry, port))
            logging.getLogger(__name__).info("metrics at http://127.0.0.1:%d/metrics", taken)
        if textfile is not None:
            stack.enter_context(kept_in_file(registry, textfile))
        yield


def _watch_parent(parent: int, stop: threading.Event) -> None:
    """A simulated site ends with whoever started it, however that ended."""
    while not stop.wait(1.0):
        if os.getppid() != parent:
            stop.set()

"""The verb `fedllm agent`: run a site until it is stopped."""

import logging
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
    invitation: Annotated[
        Path | None, typer.Option(help="The file that the coordinator made for this site. Required.")
    ] = None,
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
) -> None:
    """Take part in a federation: answer plans by this site's policy, train, send sealed updates."""
    from fedllm.agent.join import only_home
    from fedllm.agent.take_part import take_part
    from fedllm.config.home import refuse_half_restored

    refuse_half_restored(home)
    if invitation is None:
        raise ConfigError(
            "name the file that the coordinator's `fedllm site add` made for this site: "
            "--invitation NAME.invitation"
        )
    take_part(
        invitation,
        home or only_home(),
        log_file=log,
        coordinator=coordinator,
        beside=lambda here: _measured(here, metrics_port, metrics_textfile),
    )


@contextmanager
def _measured(here: "Agent", port: int | None, textfile: Path | None) -> Iterator[None]:
    """Expose the site's metrics on a port, in a file or both, during the block."""
    if port is None and textfile is None:
        yield
        return
    if textfile is not None and textfile.suffix != ".prom":
        raise ConfigError(f"--metrics-textfile {textfile}: node exporter reads files named *.prom alone")
    from fedllm.metrics.expose import kept_in_file, registry_of, served
    from fedllm.metrics.site import SiteMetrics

    registry = registry_of(SiteMetrics(here.memory, here.worker.accounts, lambda: here.contact))
    with ExitStack() as stack:
        if port is not None:
            taken = stack.enter_context(served(registry, port))
            logging.getLogger(__name__).info("metrics at http://127.0.0.1:%d/metrics", taken)
        if textfile is not None:
            stack.enter_context(kept_in_file(registry, textfile))
        yield

"""The verb `fedllm doctor`: show what is wrong on this machine, and the remedies."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedllm.cli.options import FEDERATION, AsJson
from fedllm.cli.output import console, emit
from fedllm.errors import ConfigError

if TYPE_CHECKING:
    from fedllm.doctor.finding import Finding

_COLOUR = {"ok": "green", "warn": "yellow", "fail": "red"}


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(doctor)


def doctor(
    *,
    config: Annotated[
        Path | None,
        typer.Option(help="The federation file. Default: params.yaml, if it is there; not with --site."),
    ] = None,
    site: Annotated[
        Path | None, typer.Option(help="At a site: look at this folder of `site init` instead.")
    ] = None,
    invitation: Annotated[
        Path | None, typer.Option(help="With --site: try the store as this invitation says.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check versions, servers, store, users, databases, disks, model, keys, and what was left behind."""
    from rich.markup import escape

    if invitation is not None and site is None:
        raise ConfigError("--invitation is a site's: name its folder with --site")
    findings = []
    for finding in _findings(config, site, invitation):
        findings.append(finding)
        colour = _COLOUR[finding.status]
        line = f"[{colour}]{finding.status:<4}[/] {finding.name:<16} {escape(finding.detail)}"
        console().print(line + (f" → {escape(finding.remedy)}" if finding.remedy else ""), soft_wrap=True)
    sound = all(finding.status != "fail" for finding in findings)
    payload: dict[str, object] = {
        "schema": "fedllm.doctor/1",
        "status": "ok" if sound else "fail",
        "checks": [asdict(finding) for finding in findings],
    }
    emit(as_json, payload)
    if not sound:
        raise typer.Exit(1)


def _findings(config: Path | None, site: Path | None, invitation: Path | None) -> "Iterator[Finding]":
    from fedllm.config import load_federation
    from fedllm.doctor.checkup import checkup, site_checkup

    if site is not None:
        return site_checkup(site.resolve(), invitation, load_federation(config) if config else None)

    file = config or (FEDERATION if FEDERATION.is_file() else None)
    return checkup(load_federation(file) if file else None)

"""`fedllm doctor`: what is wrong on this machine, and what to do."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fedllm.cli.output import console, emit
from fedllm.errors import ConfigError

_COLOUR = {"ok": "green", "warn": "yellow", "fail": "red"}


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(doctor)


def doctor(
    *,
    config: Annotated[
        Path | None, typer.Option(help="Federation file whose store's clock to compare with.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout's last line.")] = False,
) -> None:
    """Check versions, the MinIO binary, disk, models, the stack's servers and the clock."""
    from rich.markup import escape

    from fedllm.stack.checkup import checkup

    findings = []
    for finding in checkup(_store_url(config)):
        findings.append(finding)
        colour = _COLOUR[finding.status]
        line = f"[{colour}]{finding.status:<4}[/] {finding.name:<15} {escape(finding.detail)}"
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


def _store_url(config: Path | None) -> str | None:
    """The endpoint of a federation file's store; None means the stack's."""
    if config is None:
        return None
    from fedllm.config import load_federation

    endpoint = load_federation(config).store.endpoint
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"store.endpoint {endpoint!r}: write it with http:// or https://")
    return endpoint

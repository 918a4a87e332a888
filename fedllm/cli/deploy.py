"""The verb `fedllm deploy`: register a federation's deployments and automations with Prefect."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedllm.cli.options import FEDERATION, AsJson
from fedllm.cli.output import emit
from fedllm.cli.stack import client
from fedllm.errors import ConfigError, StackError

if TYPE_CHECKING:
    from fedllm.stack.schedules import Scheduled


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(deploy)


def deploy(
    *,
    config: Annotated[
        Path, typer.Option(help="Federation file that the deployments read.", show_default=True)
    ] = FEDERATION,
    activate: Annotated[
        bool,
        typer.Option("--activate", help="Resume the schedules that fit the federation."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Register a federation's deployments with the stack's Prefect, else PREFECT_API_URL's.

    They are infra/prefect.yaml's, named after the federation. A schedule is resumed if it fits: no nightly
    training, say, before rounds.min_sites have joined.
    """
    from fedllm.config import load_federation
    from fedllm.coordinator.origin import refuse_simulation
    from fedllm.endpoints import endpoints
    from fedllm.stack.deploy import register_deployments
    from fedllm.stack.health import PrefectApi
    from fedllm.stack.schedules import resume_fitting
    from fedllm.tasks.metrics import counting_metric

    if not config.is_file():
        raise ConfigError(f"{config}: no such file: name the federation file with --config")
    federation = load_federation(config)
    counting_metric(federation)
    refuse_simulation(federation)
    servers = endpoints()
    url = servers.prefect_api_url if servers else os.environ.get("PREFECT_API_URL", "")
    if not url:
        raise StackError("no Prefect to deploy to: `fedllm up` first, or set PREFECT_API_URL")
    names = register_deployments(config, url, servers.environment() if servers else {})
    scheduled = resume_fitting(PrefectApi(url), federation, names) if activate else []
    payload: dict[str, object] = {
        "schema": "fedllm.deploy/1",
        "status": "deployed",
        "federation": federation.name,
        "deployments": names,
        "prefect_api_url": url,
        "config_uri": str(config.resolve()),
        "activated": activate,
        "schedules": [asdict(schedule) for schedule in scheduled],
    }
    prefix = f"{client(servers) if servers else f'PREFECT_API_URL={url}'} prefect deployment run"
    lines = [f"{prefix} {name}" for name in names]
    emit(as_json, payload, "\n".join([*lines, *_schedule_lines(scheduled)]))


def _schedule_lines(scheduled: Sequence["Scheduled"]) -> list[str]:
    """Return one line per schedule: whether it is on, and why not."""
    lines = []
    for schedule in scheduled:
        if schedule.why_not is None:
            lines.append(f"scheduled      {schedule.deployment}  {schedule.when}")
        else:
            as_before = ", and is on schedule as before" if schedule.active else ""
            lines.append(f"not scheduled  {schedule.deployment}{as_before}: {schedule.why_not}")
    return lines

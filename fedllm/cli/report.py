"""The verb `fedllm report`: write the report of a training as one HTML page."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from fedllm.cli.options import FEDERATION, AsJson, Config
from fedllm.cli.output import emit
from fedllm.config import load_federation
from fedllm.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(report)


def report(
    run: Annotated[str | None, typer.Argument(help="The run's id. Default: the newest one.")] = None,
    *,
    config: Config = FEDERATION,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("report.html"),
    as_json: AsJson = False,
) -> None:
    """Write a training's report: one HTML file that needs no network, of a run that is over or under way.

    Every training makes it by itself at its end, as the artifact `report.html` of its run in MLflow.
    """
    from fedllm.journal.journal import Journal
    from fedllm.journal.runs import all_runs
    from fedllm.journal.training_facts import training_facts
    from fedllm.report import render

    federation = load_federation(config)
    with closing(Journal(federation.name)) as journal:
        if run is None:
            runs = all_runs(journal)
            if not runs:
                raise ConfigError(f"{federation.name} has no run here yet: start one with `fedllm run`")
            run = runs[-1].run
        facts = training_facts(journal, run)
    page = render(facts).encode()
    try:
        out.write_bytes(page)
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror}") from None
    payload: dict[str, object] = {
        "schema": "fedllm.training-report/1",
        "run_id": run,
        "status": facts.status,
        "out": str(out),
        "bytes": len(page),
    }
    emit(as_json, payload, f"{run} ({facts.status}): {out}")

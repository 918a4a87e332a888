"""The result of a training as text: its table of quality, and the command that comes next."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm.tasks.metrics import main_metric

if TYPE_CHECKING:
    from rich.table import Table

_COLUMNS = 9  # most models in the table, with zero-shot; fits 100 characters


def next_command(result: dict[str, Any], file: Path) -> str:
    """Return the next command, which checks the new version; empty if none is registered."""
    return f"next: fedllm promote --check --config {shlex.quote(str(file))}" if result["model"]["uri"] else ""


def summary(result: dict[str, Any]) -> str:
    """Return a `fedllm.run/1` object as text: the table, and a line each for the run, model and privacy."""
    from io import StringIO

    from rich.console import Console

    out = Console(file=StringIO(), width=100, highlight=False)
    out.print(quality_table(result))
    version = result["model"]["uri"] or "waits for MLflow"
    total, beside = result["seconds"]["total"], result["seconds"]["per_round_overhead"]
    took = f" in {total:.0f} s" if total is not None else ""
    overhead = f" ({beside:.1f} s per round outside training and evaluation)" if beside is not None else ""
    out.print(f"run {result['run_id']}: {result['status']}, {result['stop_reason']}")
    out.print(f"{result['rounds']} rounds{took}{overhead}")
    out.print(f"best model: {version}, SHA-256 {result['model']['sha256']}")
    out.print(f"privacy: {result['privacy']['words']}")
    text: str = out.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    return text.rstrip()


def quality_table(result: dict[str, Any]) -> "Table":
    """Return quality by silo (rows) and round (columns); of many rounds only the first and the last."""
    from rich.table import Table

    by_round: dict[str, dict[str, float]] = result["by_round"]
    metric = main_metric(by_round["0"], result.get("metric"))
    title = f"{metric.words} on the public set"
    if len(by_round) > _COLUMNS:
        numbers = list(by_round)
        kept = [*numbers[:2], *numbers[2 - _COLUMNS :]]
        title += f" (without rounds {int(kept[1]) + 1} to {int(kept[2]) - 1})"
        by_round = {number: by_round[number] for number in kept}
    table = Table(title=title)
    table.add_column("silo")
    for number in by_round:
        table.add_column("zero-shot" if number == "0" else f"round {number}", justify="right")
    groups = [name.partition("/")[2] for name in by_round["0"] if name.startswith(f"{metric.name}/")]
    groups = [] if groups == ["all"] else groups  # records without a silo are one group
    for group in groups:
        values = [metrics[f"{metric.name}/{group}"] for metrics in by_round.values()]
        table.add_row(group, *[metric.shown(value, digits=3) for value in values])
    table.add_section()
    values = [metrics[metric.name] for metrics in by_round.values()]
    table.add_row("all", *[metric.shown(value, digits=3) for value in values])
    return table

"""`fedllm data`: what a simulated federation is made of, a DVC stage a command."""

from pathlib import Path
from typing import Annotated

import typer

from fedllm.cli.output import emit

app = typer.Typer(
    no_args_is_help=True, help="Fetch, deal out and describe the data of a simulated federation."
)

Config = Annotated[Path, typer.Option("--config", help="The federation file.")]
Out = Annotated[Path, typer.Option("--out", help="The folder of the data.")]
Reports = Annotated[Path, typer.Option("--reports", help="The folder of the report.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Change a setting: key.part=value.")]
Json = Annotated[bool, typer.Option("--json", help="End with one JSON object on stdout.")]

_CONFIG, _OUT, _REPORTS = Path("params.yaml"), Path("data"), Path("reports")


@app.command()
def fetch(config: Config = _CONFIG, out: Out = _OUT, sets: Sets = None, as_json: Json = False) -> None:
    """Fetch the corpus and write its distinct records to raw.jsonl."""
    from fedllm.config import load_federation
    from fedllm.data import prepare

    records = prepare.fetch(load_federation(config, sets or ()), out)
    path = out / "raw.jsonl"
    emit(as_json, {"path": str(path), "count": len(records)}, f"{path}: {len(records)} records")


@app.command()
def partition(config: Config = _CONFIG, out: Out = _OUT, sets: Sets = None, as_json: Json = False) -> None:
    """Deal the records that are not public to the sites."""
    from fedllm.config import load_federation
    from fedllm.data import prepare

    parts = prepare.deal(load_federation(config, sets or ()), out)
    counts = {name: len(records) for name, records in parts.items()}
    lines = "\n".join(f"{out / 'sites' / name}.jsonl: {count} records" for name, count in counts.items())
    emit(as_json, {"sites": counts}, lines)


@app.command()
def evalset(config: Config = _CONFIG, out: Out = _OUT, sets: Sets = None, as_json: Json = False) -> None:
    """Write the public records, on which no site trains."""
    from fedllm.config import load_federation
    from fedllm.data import prepare

    records = prepare.evalset(load_federation(config, sets or ()), out)
    path = out / "public.jsonl"
    emit(as_json, {"path": str(path), "count": len(records)}, f"{path}: {len(records)} records")


@app.command()
def report(
    config: Config = _CONFIG,
    out: Out = _OUT,
    reports: Reports = _REPORTS,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Describe who holds what: data.json and data.png."""
    from fedllm.config import load_federation
    from fedllm.data.report import report as describe

    found = describe(load_federation(config, sets or ()), out, reports)
    lines = [f"{name}: {part['count']} records, {part['labels']}" for name, part in found["sites"].items()]
    lines.append(f"public: {found['public']['count']} records, {found['public']['labels']}")
    lines.append(f"written: {reports / 'data.json'}, {reports / 'data.png'}")
    emit(as_json, found, "\n".join(lines))

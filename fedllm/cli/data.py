"""The verbs `fedllm data …`: the DVC stages of a simulation; at a site, pseudonyms and withdrawal."""

from pathlib import Path
from typing import Annotated

import typer

from fedllm.cli.options import FEDERATION, AsJson, Config, Home, Overrides
from fedllm.cli.output import emit

app = typer.Typer(
    no_args_is_help=True,
    help="Fetch, split and describe the data of simulated sites; at a site: pseudonyms and withdrawal.",
)

Out = Annotated[Path, typer.Option("--out", help="The folder of the data.")]
Reports = Annotated[Path, typer.Option("--reports", help="The folder of the report.")]

_OUT, _REPORTS = Path("data"), Path("reports")


@app.command()
def fetch(
    *,
    config: Config = FEDERATION,
    out: Out = _OUT,
    sets: Overrides = None,
    base: Annotated[
        bool, typer.Option("--base", help="Also fetch the base model into the cache, and convert it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch the corpus and write its distinct records to raw.jsonl."""
    from fedllm.config import load_federation
    from fedllm.data import prepare

    settings = load_federation(config, sets or ())
    records = prepare.fetch(settings, out)
    path = out / "raw.jsonl"
    payload: dict[str, object] = {"path": str(path), "count": len(records)}
    lines = [f"{path}: {len(records)} records"]
    if base:
        from fedllm.models.base import resolve_base

        folder = resolve_base(settings.model.base)
        payload["base"] = str(folder)
        lines.append(f"{settings.model.base}: {folder}")
    emit(as_json, payload, "\n".join(lines))


@app.command()
def partition(
    config: Config = FEDERATION, out: Out = _OUT, sets: Overrides = None, as_json: AsJson = False
) -> None:
    """Deal the records that are not public to the sites."""
    from fedllm.config import load_federation
    from fedllm.data import prepare

    parts = prepare.split_sites(load_federation(config, sets or ()), out)
    counts = {name: len(records) for name, records in parts.items()}
    lines = "\n".join(f"{out / 'sites' / name}.jsonl: {count} records" for name, count in counts.items())
    emit(as_json, {"sites": counts}, lines)


@app.command()
def evalset(
    config: Config = FEDERATION, out: Out = _OUT, sets: Overrides = None, as_json: AsJson = False
) -> None:
    """Write the public records, on which no site trains."""
    from fedllm.config import load_federation
    from fedllm.data import prepare

    records = prepare.evalset(load_federation(config, sets or ()), out)
    path = out / "public.jsonl"
    emit(as_json, {"path": str(path), "count": len(records)}, f"{path}: {len(records)} records")


@app.command()
def report(
    config: Config = FEDERATION,
    out: Out = _OUT,
    reports: Reports = _REPORTS,
    sets: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Describe who holds what: data.json and data.png."""
    from fedllm.config import load_federation
    from fedllm.data.report import report as describe

    summary = describe(load_federation(config, sets or ()), out, reports)
    lines = [f"{name}: {part['count']} records, {part['labels']}" for name, part in summary["sites"].items()]
    lines.append(f"public: {summary['public']['count']} records, {summary['public']['labels']}")
    lines.append(f"written: {reports / 'data.json'}, {reports / 'data.png'}")
    emit(as_json, summary, "\n".join(lines))


@app.command()
def anonymize(
    source: Annotated[
        Path | None, typer.Argument(metavar="IN", help="JSON lines; they stay as they are.")
    ] = None,
    target: Annotated[Path | None, typer.Argument(metavar="OUT", help="Where the new records go.")] = None,
    *,
    fields: Annotated[str, typer.Option(help="Which fields to look through: a,b,…")] = "text",
    home: Home = None,
    key: Annotated[Path | None, typer.Option(help="The file of the key, in place of the home's.")] = None,
    names: Annotated[Path | None, typer.Option(help="A file of names to look for, one a line.")] = None,
    region: Annotated[
        list[str] | None, typer.Option(help="One country more whose telephone numbers are looked for: IT.")
    ] = None,
    language: Annotated[str, typer.Option(help="Of the texts: how they are cut into words.")] = "en",
    measure: Annotated[
        bool, typer.Option("--measure", help="Instead: plant invented values in public texts, print the F1.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """At a site, offline: replace e-mails, cards, IBANs, IPs, telephone numbers and URLs by pseudonyms.

    A pseudonym is a keyed HMAC: equal values stay equal, and another key links to nothing. The key is drawn
    once and kept in the home's `pseudonym.key`. Names are found only where --names lists them; ids, labels
    and other fields stay. This is no differential privacy and no guarantee: it lowers what a mistake can
    expose.
    """
    from fedllm.cli.anonymizing import anonymized, key_file, measured
    from fedllm.data.anonymize import read_names
    from fedllm.data.personal import Finder

    finder = Finder(language, read_names(names) if names else (), region or ())
    if measure:
        emit(as_json, *measured(finder))
    else:
        emit(
            as_json,
            *anonymized(
                source, target, [name.strip() for name in fields.split(",")], finder, key_file(home, key)
            ),
        )


@app.command()
def forget(
    *,
    ids: Annotated[list[str] | None, typer.Option("--id", help="A record's id.")] = None,
    where: Annotated[list[str] | None, typer.Option(help="FIELD=VALUE: all records with that value.")] = None,
    home: Home = None,
    show: Annotated[bool, typer.Option("--list", help="Show what is journaled, and add nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """At a site: leave records out of every later round, and journal it.

    The journal keeps keyed HMACs, no values. The data file stays as it is: deleting there is its owner's. A
    round under way ends with what it began; models already trained keep what they learned.
    """
    from fedllm.agent.join import only_home
    from fedllm.cli.withdrawal import answer, requested_values
    from fedllm.config import load_site
    from fedllm.data.forget import Forgotten
    from fedllm.data.forget import forget as journal

    folder = (home or only_home()).resolve()
    site = load_site(folder / "site.yaml")
    values = requested_values(ids or (), where or (), show=show)
    forgotten, new = (Forgotten.load(folder), []) if show else journal(folder, values)
    emit(as_json, *answer(folder, site.data, forgotten, new))

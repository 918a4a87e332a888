"""The verbs `fedllm ledger …`: show, verify and export a site's privacy ledger."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedllm.cli.options import AsJson, Home
from fedllm.cli.output import emit

if TYPE_CHECKING:
    from fedllm.config import SiteConfig
    from fedllm.privacy.ledger import Ledger
    from fedllm.privacy.ledger_table import DatasetSpent

app = typer.Typer(no_args_is_help=True)


@app.command()
def show(*, home: Home = None, as_json: AsJson = False) -> None:
    """At the site: what each training has spent of each data set's privacy budget."""
    from fedllm.privacy.ledger import Limits
    from fedllm.privacy.ledger_table import spent_by

    site, ledger = _opened(home)
    limits = Limits(site.policy.total_epsilon, site.policy.max_delta)
    with closing(ledger):
        totals = [spent_by(ledger, dataset, limits) for dataset in ledger.datasets()]
    payload: dict[str, object] = {
        "schema": "fedllm.ledger-show/1",
        "ledger": str(ledger.path),
        "datasets": [total.as_json() for total in totals],
    }
    text = "\n".join(map(_table, totals)) or f"{ledger.path} is empty: no training with DP was ever promised"
    emit(as_json, payload, text)


@app.command()
def verify(*, home: Home = None, as_json: AsJson = False) -> None:
    """At the site: check every entry, signature and link, and the heads that coordinators have seen."""
    _, ledger = _opened(home)
    with closing(ledger):
        heads = ledger.verify()
    payload: dict[str, object] = {
        "schema": "fedllm.ledger-verify/1",
        "ledger": str(ledger.path),
        "datasets": {dataset: head.model_dump() for dataset, head in heads.items()},
    }
    lines = [f"{name}: {head.seq + 1} entries hold up to {head.sha256}" for name, head in heads.items()]
    emit(as_json, payload, "\n".join(lines) or f"{ledger.path} is empty")
    ledger.close()


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="Where the entries go, as JSON lines.")],
    *,
    federation: Annotated[
        str | None, typer.Option(help="Whose runs may be named; others' entries stay without their context.")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """At the site: write the entries for an auditor. Without --federation every run is named."""
    _, ledger = _opened(home)
    with closing(ledger):
        entries = [entry for name in ledger.datasets() for entry in ledger.entries(name, show=federation)]
    out.write_text("".join(entry.model_dump_json() + "\n" for entry in entries), encoding="utf-8")
    payload: dict[str, object] = {
        "schema": "fedllm.ledger-export/1",
        "out": str(out),
        "entries": len(entries),
    }
    emit(as_json, payload, f"{len(entries)} entries are in {out}")


@app.command()
def admit(
    card: Annotated[Path, typer.Argument(help="The other home's card.json.")],
    *,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """At a site whose home keeps the ledger: let another home of the same owner sign in it, too."""
    from fedllm.agent.join import read_card
    from fedllm.privacy.site_ledger import dataset_of

    keys = read_card(card)
    site, ledger = _opened(home)
    with closing(ledger):
        ledger.admit(dataset_of(site), keys.verify)
    payload: dict[str, object] = {
        "schema": "fedllm.ledger-admit/1",
        "dataset": dataset_of(site),
        "site": keys.name,
        "key": keys.verify,
    }
    emit(as_json, payload, f"{keys.name} may spend the budget of {dataset_of(site)}, too")


def _opened(home: Path | None) -> "tuple[SiteConfig, Ledger]":
    """Return the site and its ledger. Raises `LedgerError` if there is none; creates no ledger."""
    from fedllm.agent.join import only_home
    from fedllm.config import load_site
    from fedllm.errors import LedgerError
    from fedllm.privacy.site_ledger import ledger_path, site_ledger
    from fedllm.secure.identity import load_identity

    folder = (home or only_home()).resolve()
    site = load_site(folder / "site.yaml")
    path = ledger_path(folder, site)
    if not path.exists():
        raise LedgerError(f"{path} is not there: {site.name} has taken part in no training with DP")
    return site, site_ledger(folder, site, load_identity(folder / "keys"))


def _table(spent: "DatasetSpent") -> str:
    from io import StringIO

    from rich.console import Console
    from rich.table import Table

    from fedllm.protocol.terms import rounded_up

    table = Table(title=spent.title, caption=spent.caption, title_justify="left", caption_justify="left")
    for name in ("federation", "run", "q", "sigma", "charged", "reserved", "epsilon", "delta", ""):
        table.add_column(name, justify="left" if name in {"federation", "run", ""} else "right")
    for row in spent.trainings:
        table.add_row(
            row.federation,
            row.run,
            f"{row.sampling_rate:g}",
            f"{row.noise_multiplier:g}",
            str(row.steps_charged),
            str(row.steps_reserved),
            f"{rounded_up(row.epsilon)} of {rounded_up(row.epsilon_reserved)}",
            repr(row.delta),
            "open" if row.open else "settled",
        )
    out = StringIO()
    Console(file=out, width=110, highlight=False).print(table, markup=False)
    return out.getvalue().rstrip()

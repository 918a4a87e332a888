"""The verb `fedllm audit`: audit the privacy of a site at the site itself."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedllm.cli.options import FEDERATION, AsJson, Overrides
from fedllm.cli.output import console, emit

if TYPE_CHECKING:
    from fedllm.auditing.site import Findings, Subject
    from fedllm.config import FederationConfig


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(audit)


def audit(
    file: Annotated[Path, typer.Argument(help="The federation file.")] = FEDERATION,
    *,
    home: Annotated[Path | None, typer.Option(help="The site's folder.")] = None,
    site: Annotated[str | None, typer.Option(help="A simulated site; the first if none is named.")] = None,
    canaries: Annotated[int, typer.Option(min=4, max=100_000, help="How many; half are guessed.")] = 256,
    kind: Annotated[
        Literal["gradient", "text"], typer.Option(help="Canaries: gradients (strongest), or texts.")
    ] = "gradient",
    claim: Annotated[
        float | None, typer.Option(min=0, help="Epsilon to hold the training against, not the file's own.")
    ] = None,
    sets: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Verify a site's ledgers, audit one training with canaries, and report on membership.

    Run it at the site: it trains twice on the site's data and throws away what it trained. Nothing is sent
    and no budget is charged; what it prints is about private data and stays there. A lower bound on epsilon
    can refute a claim and never confirms one. Exit code 1: a violation, or a broken ledger.
    """
    from fedllm.auditing.site import Findings, membership_report, one_run, verify_site
    from fedllm.config import load_federation

    config = load_federation(file, sets or ())
    subject = _subject(config, home, site)
    ledgers = verify_site(subject)
    with _shown("one-run audit") as update:
        canary_audit = one_run(config, subject, canaries=canaries, kind=kind, claim=claim, progress=update)
    with _shown("membership") as update:
        members = membership_report(config, subject, progress=update)
    findings = Findings(ledgers, canary_audit, members, config.privacy.unit)
    emit(as_json, findings.public_json() | {"site": subject.name}, _text(findings, subject.name))
    if findings.fault is not None:
        raise typer.Exit(1)


def _subject(config: "FederationConfig", home: Path | None, site: str | None) -> "Subject":
    """Return the site of `home`, else a simulated site, else the only site of this machine."""
    from fedllm.auditing.site import simulated_site, site_at
    from fedllm.errors import ConfigError

    if home is not None and site is not None:
        raise ConfigError("--site names a simulated site, --home a real one: give one of them")
    if home is not None:
        return site_at(home)
    if config.simulation is not None or site is not None:
        return simulated_site(config, site)
    from fedllm.agent.join import only_home

    return site_at(only_home())


@contextmanager
def _shown(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on stderr; yields the function that updates it."""
    from rich.progress import Progress

    with Progress(console=console(), transient=True) as progress:
        bar = progress.add_task(what, total=None)
        yield lambda step, steps: progress.update(bar, completed=step, total=steps)


def _text(findings: "Findings", site: str) -> str:
    from io import StringIO

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from fedllm.auditing.site import STAYS

    table = Table("check", "finding", title=f"privacy audit of {site}")
    for row in findings.rows:
        table.add_row(escape(row["check"]), escape(row["finding"]))
    out = StringIO()
    Console(file=out, width=100, highlight=False).print(table)
    return f"{out.getvalue().rstrip()}\n{STAYS}"

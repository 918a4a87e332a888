"""The command line: every verb, true exit codes, and one clear line for every error."""

import logging
import os
import sys
from typing import Annotated, NoReturn

import typer

from fedllm.cli import (
    agent,
    audit,
    backup,
    bench,
    data,
    doctor,
    ledger,
    lifecycle,
    metrics,
    model,
    plan_privacy,
    promote,
    report,
    run,
    site,
    stack,
    versions,
)
from fedllm.errors import FedllmError
from fedllm.extras import guard
from fedllm.logs import log_as_asked, quiet_libraries

app = typer.Typer(
    name="fedllm",
    help="Organisations that may not share data fine-tune one language model together.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def options(
    *,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks, and all that libraries log.")
    ] = False,
) -> None:
    """Options of every verb."""
    if debug:
        os.environ["FEDLLM_DEBUG"] = "1"
    else:
        quiet_libraries()
    log_as_asked()


run.register(app)
stack.register(app)
agent.register(app)
lifecycle.register(app)
backup.register(app)
model.register(app)
doctor.register(app)
plan_privacy.register(app)
promote.register(app)
audit.register(app)
report.register(app)
metrics.register(app)
app.add_typer(site.app, name="site", help="Joining: keys at the site, cards, invitations.")
app.add_typer(versions.app, name="model", help="Registered versions: what their coordinator signed.")
app.add_typer(ledger.app, name="ledger", help="What was spent of a data set's privacy budget.")
app.add_typer(bench.app, name="bench", help="Measure what the README states.")
app.add_typer(data.app, name="data", help="Fetch, deal and describe the data of simulated sites.")
guard(app)


def main() -> NoReturn:
    """Run the command line; errors of our own are one line on stderr."""
    try:
        app()
    except FedllmError as error:
        if os.environ.get("FEDLLM_DEBUG"):
            raise
        if os.environ.get("FEDLLM_LOG") == "json":
            logging.getLogger("fedllm").error("%s", error)  # noqa: TRY400 - the one line says all
        else:
            sys.stderr.write(f"fedllm: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("fedllm: interrupted\n")
        sys.exit(130)
    sys.exit(0)

"""The command line: all verbs, their exit codes, and one line for every error."""

import logging
import os
import sys
from typing import Annotated, NoReturn

import typer
from typer import Abort
from typer.exceptions import TyperException

from fedllm.cli import (
    agent,
    audit,
    backup,
    bench,
    data,
    deploy,
    doctor,
    ledger,
    lifecycle,
    metrics,
    model,
    new,
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

INTERRUPTED = 130  # exit code of a process ended by Ctrl-C; typer returns it too

app = typer.Typer(
    name="fedllm",
    help="Organisations that may not share data fine-tune one language model together.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        sys.stdout.write(f"fedllm {version('fedllm')}\n")
        raise typer.Exit


@app.callback()
def options(
    *,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks, and all that libraries log.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every verb."""
    del version  # its callback has printed it
    if debug:
        os.environ["FEDLLM_DEBUG"] = "1"
    else:
        quiet_libraries()
    log_as_asked()


run.register(app)
new.register(app)
stack.register(app)
deploy.register(app)
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
app.add_typer(data.app, name="data", help="Fetch, split and describe the data of simulated sites.")
guard(app)


def main() -> NoReturn:
    """Run the command line, and exit; fedllm's errors and usage errors are one line on stderr."""
    try:
        code = app(standalone_mode=False)
    except FedllmError as error:
        if os.environ.get("FEDLLM_DEBUG"):
            raise
        _say(str(error))
        sys.exit(error.exit_code)
    except TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # typer has printed the help
            sys.exit(2)
        _say(_usage(error))
        sys.exit(error.exit_code)
    except (Abort, KeyboardInterrupt):
        code = INTERRUPTED
    if code == INTERRUPTED:
        _say("interrupted")
    sys.exit(code if isinstance(code, int) else 0)


def _say(line: str) -> None:
    if os.environ.get("FEDLLM_LOG") == "json":
        logging.getLogger("fedllm").error("%s", line)
    else:
        sys.stderr.write(f"fedllm: {line}\n")


def _usage(error: TyperException) -> str:
    """Return a usage error as one line that ends with the command for help."""
    ctx = getattr(error, "ctx", None)
    text = " ".join(error.format_message().split()).rstrip(".")
    text = text.replace("Value error, ", "").replace("Input should be a valid integer", "not a whole number")
    text = text.replace("Input should be", "must be")
    end = "" if text.endswith("?") else ";"
    return f"{text}{end} `{ctx.command_path if ctx else 'fedllm'} --help` lists what there is"

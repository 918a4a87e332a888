"""MLflow's server as the stack runs it: for its own pages alone, and as one process instead of two.

By itself it does what a page of any port of this machine asks, with the password that a browser keeps for it,
and lets any name that begins with `10.` or `192.168.` read (`OwnPages`).

The command makes the database's tables and the first account, and starts uvicorn as a child, which imports
MLflow once more. So the stack held 240 MB and took seconds of a core for a process that only waits, and a
port stayed taken when that one alone was killed. Here the command becomes uvicorn itself.
"""

import os
from typing import NoReturn

import uvicorn
from mlflow import server
from mlflow.cli import cli
from uvicorn.importer import import_from_string

from fedllm.stack.own_pages import OwnPages, own_pages

_MODULE = 3  # `python -m uvicorn` comes before uvicorn's own arguments
_APP = "FEDLLM_MLFLOW_APP"  # MLflow's application, and () behind a function that makes it


def main() -> None:
    """Run MLflow's command line, `server` among its verbs."""
    server._exec_cmd = _become  # noqa: SLF001 - how MLflow 3.17 starts its server; nothing public leaves it out
    cli()


def create_app() -> OwnPages:
    """MLflow's application; `uvicorn --factory` calls it."""
    name, call, _ = os.environ[_APP].partition("()")
    found = import_from_string(name)
    return own_pages(found() if call else found, os.environ.get("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", ""))


def _become(command: list[str], *, extra_env: dict[str, str], **_: object) -> NoReturn:
    """Serve here what MLflow asks for as a child."""
    *options, app = command[_MODULE:]
    made = "--factory" in options
    os.environ |= extra_env | {_APP: f"{app}()" if made else app}
    uvicorn.main([*options, *([] if made else ["--factory"]), "fedllm.stack.mlflow_server:create_app"])
    raise AssertionError("uvicorn's command ends its process")


if __name__ == "__main__":
    main()

"""MLflow's server as the stack runs it: only for its own pages, and as one process instead of two.

By default MLflow obeys pages of any port of this machine, with the password that the browser stores for it,
and lets any host name that begins with `10.` or `192.168.` read (`OwnPages`).

Its command creates the database tables and the first account, and starts uvicorn as a child, which imports
MLflow again. The waiting parent took 240 MB and seconds of a core, and the port stayed in use when only the
parent was killed. Here the command becomes uvicorn itself.
"""

import os
from typing import NoReturn

import uvicorn
from mlflow import server
from mlflow.cli import cli
from uvicorn.importer import import_from_string

from fedllm.stack.own_pages import OwnPages, own_pages

_MODULE = 3  # words of `python -m uvicorn` before uvicorn's arguments
_APP = "FEDLLM_MLFLOW_APP"  # MLflow's application, with () after a function that creates it


def main() -> None:
    """Run MLflow's command line, with `server` in this process."""
    server._exec_cmd = _serve  # noqa: SLF001 - MLflow 3.17 starts its server by it; there is no public hook
    cli()


def create_app() -> OwnPages:
    """Create MLflow's application; `uvicorn --factory` calls this."""
    name, call, _ = os.environ[_APP].partition("()")
    app = import_from_string(name)
    return own_pages(app() if call else app, os.environ.get("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", ""))


def _serve(command: list[str], *, extra_env: dict[str, str], **_: object) -> NoReturn:
    """Run the uvicorn that MLflow would start as a child in this process."""
    *options, app = command[_MODULE:]
    factory = "--factory" in options
    os.environ |= extra_env | {_APP: f"{app}()" if factory else app}
    uvicorn.main([*options, *([] if factory else ["--factory"]), "fedllm.stack.mlflow_server:create_app"])
    raise AssertionError("uvicorn's command ends its process")


if __name__ == "__main__":
    main()

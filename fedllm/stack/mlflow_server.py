"""MLflow's server as the stack runs it: one process, where `mlflow server` is two.

The command makes the database's tables and the first account, and starts uvicorn as a child, which imports
MLflow once more. So the stack held 240 MB and took seconds of a core for a process that only waits, and a
port stayed taken when that one alone was killed. Here the command becomes uvicorn itself.
"""

import os
from typing import NoReturn

import uvicorn
from mlflow import server
from mlflow.cli import cli

_MODULE = 3  # `python -m uvicorn` comes before uvicorn's own arguments


def main() -> None:
    """Run MLflow's command line, `server` among its verbs."""
    server._exec_cmd = _become  # noqa: SLF001 - how MLflow 3.17 starts its server; nothing public leaves it out
    cli()


def _become(command: list[str], *, extra_env: dict[str, str], **_: object) -> NoReturn:
    """Serve here what MLflow asks for as a child."""
    os.environ.update(extra_env)
    uvicorn.main(command[_MODULE:])
    raise AssertionError("uvicorn's command ends its process")


if __name__ == "__main__":
    main()

"""The command line in a process that is forked from one that has imported its libraries: seconds sooner.

It is a process of its own, with its own environment, exit code and output, as `python -m fedllm` is; some
tests start that. Prefect is not imported before the fork: it reads the environment when it is.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path

LIBRARIES = [
    "fedllm.agent.preload",
    "fedllm.cli.main",
    "fedllm.coordinator.rounds",
    "fedllm.tracking",
    "mlflow.pyfunc",
    "mlflow.store.artifact.mlflow_artifacts_repo",
    "anyio",
    "fastapi",
    "httpx",
    "sqlalchemy.ext.asyncio",
]


def run(
    *arguments: str, env: Mapping[str, str], timeout: float, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line; raises `subprocess.TimeoutExpired` as `subprocess.run` does."""
    context = get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    with tempfile.TemporaryDirectory(prefix="fedllm-cli-") as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = context.Process(target=_main, args=(arguments, dict(env), str(cwd or Path.cwd()), out, err))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(arguments, timeout, out.read_bytes(), err.read_bytes())
        finished = (arguments, process.exitcode, out.read_text(), err.read_text(errors="replace"))
        return subprocess.CompletedProcess(*finished)


def _main(arguments: tuple[str, ...], env: dict[str, str], cwd: str, out: Path, err: Path) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        with path.open("wb") as opened:
            os.dup2(opened.fileno(), stream.fileno())
    sys.argv = ["fedllm", *arguments]
    from fedllm.cli.main import main

    main()

"""The command line, each time in a process forked from one that has imported its libraries: seconds sooner.

It is a process of its own, with its own environment, exit code and output, as `python -m fedllm` is; some
tests start that.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import warm_commands


@cache
def _server() -> Path:
    """Where this test process' own server takes requests; it ends with the test process."""
    asked = Path(tempfile.mkdtemp(prefix="fedllm-warm-")) / "asked"
    ending_with_us = ["setpriv", "--pdeathsig", "KILL"]
    serve = [sys.executable, "-P", warm_commands.__file__, "serve", str(asked), *warm_commands.LIBRARIES]
    subprocess.Popen([*ending_with_us, *serve], stdin=subprocess.DEVNULL)
    return asked


def run(
    *arguments: str, env: Mapping[str, str], timeout: float, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line; raises `subprocess.TimeoutExpired` as `subprocess.run` does."""
    command = [*warm_commands.asks(_server(), "fedllm"), *arguments]
    # Files, not pipes: a server that the command starts keeps them.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        done = subprocess.run(
            command,
            env=dict(env),
            timeout=timeout,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            check=False,
        )
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode(errors="replace"))
    return subprocess.CompletedProcess(arguments, done.returncode, *said)

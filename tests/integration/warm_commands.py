"""`fedllm` and `python FILE` in processes forked from one that has imported their libraries.

    python -P warm_commands.py serve SOCKET LIBRARY...    begins to serve, and ends with whoever started it
    python -SI warm_commands.py run SOCKET NAME ARGUMENT...

`run` is what a test or a page's shell starts: it hands over its arguments, environment, folder and files,
passes the signals on that it gets, and ends as the forked process does. That process is killed should `run`
be. Most of what a short command takes is imports: seconds of a core, for each of a page's thirty commands.
README's first is run without.
"""

import array
import gc
import importlib
import json
import os
import runpy
import select
import shlex
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
START = 240.0  # s for the server to have imported its libraries
# Prefect is not among them: it reads the environment when it is imported.
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


def asks(at: Path, name: str) -> list[str]:
    """What asks the server at `at` for a command."""
    return [sys.executable, "-SI", str(Path(__file__).resolve()), "run", str(at), name]


def put_commands(folder: Path, at: Path) -> None:
    """Write `fedllm` and `python` for the PATH of a page, which ask the server at `at`."""
    folder.mkdir()
    for name in ("fedllm", "python"):
        command = folder / name
        otherwise = (
            f'case "$1" in *.py) ;; *) exec {sys.executable} "$@" ;; esac\n' if name == "python" else ""
        )
        script = f'#!/bin/sh\n{otherwise}exec {shlex.join(asks(at, name))} "$@"\n'
        command.write_text(script, encoding="utf-8")
        command.chmod(0o755)


def serve(at: Path, libraries: list[str]) -> None:
    """Fork a process for every request; the first waits until the libraries are there."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(at))
    listening.listen(64)
    for name in libraries:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    while True:
        asking, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            os._exit(_keep(asking))
        asking.close()


def _keep(asking: socket.socket) -> int:
    """Have a process of its own do what was asked, and say how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    files = array.array("i")
    text, ancillary, *_ = asking.recvmsg(1 << 20, socket.CMSG_SPACE(3 * files.itemsize))
    files.frombytes(ancillary[0][2])
    asked = json.loads(text)
    working = os.fork()
    if working == 0:
        asking.close()
        _work(asked, list(files))
    for file in (*files, 0, 1, 2):
        with suppress(OSError):
            os.close(file)
    ended = os.pidfd_open(working)
    either: list[socket.socket | int] = [asking, ended]
    while asking in (ready := select.select(either, [], [])[0]) and ended not in ready:
        number = asking.recv(1)
        os.kill(working, number[0] if number else signal.SIGKILL)
        if not number:
            return 0
    _, status = os.waitpid(working, 0)
    with suppress(OSError):
        asking.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())
    return 0


def _work(asked: dict[str, Any], files: list[int]) -> NoReturn:
    """Become the command: nothing of the server's is left but what it imported."""
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    name, *rest = asked["arguments"]
    if name == "python":
        sys.argv = rest
        sys.path.insert(0, str(Path(rest[0]).parent))
        runpy.run_path(rest[0], run_name="__main__")
        sys.exit()
    from fedllm.cli.main import main

    sys.argv = ["fedllm", *rest]
    main()


def run(at: Path, arguments: list[str]) -> int:
    """Ask the server, and end as what it forked did."""
    asking = socket.socket(socket.AF_UNIX)
    ends = time.monotonic() + START
    while True:
        try:
            asking.connect(str(at))
            break
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > ends:
                raise
            time.sleep(0.05)
    asked = {"arguments": arguments, "environment": dict(os.environ), "folder": str(Path.cwd())}
    files = array.array("i", [0, 1, 2])
    asking.sendmsg([json.dumps(asked).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: asking.send(bytes([number])))
    status: int = json.loads(asking.recv(16) or b"1")
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(Path(sys.argv[2]), sys.argv[3:])
    else:
        sys.exit(run(Path(sys.argv[2]), sys.argv[3:]))

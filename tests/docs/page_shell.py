"""One shell for one page: what its blocks set, its later blocks see."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
import warm_commands
from page_blocks import ROOT, Step, steps

from tests.blank_databases import put_blank_databases

BIN = Path(sys.executable).parent
BLOCK = 1200.0  # s, for one block: a machine with other work to do is slow
_OWN = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]


class BlockError(AssertionError):
    """A block of the documentation did not work as it is written."""


def fresh_copy(folder: Path) -> Path:
    """The repository as a clone has it, with what is not committed yet."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def alone() -> list[str]:
    """What starts a program with a loopback and processes of its own, where this user may.

    The pages name the usual ports, which another stack of this machine may have; and nothing that a page
    starts outlives it.
    """
    begin = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    for user in ([], ["--map-root-user"]):  # as root, else in a user namespace
        command = ["unshare", *user, *_OWN, *begin]
        with suppress(FileNotFoundError):
            if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
                return command
    pytest.skip(
        "the pages name the usual ports, and this user gets no network of its own (unshare --net, ip)"
    )


class Shell:
    """A bash that runs blocks one after the other, and ends at the first command that fails."""

    def __init__(
        self, folder: Path, env: dict[str, str], prefix: list[str] | None = None, notes: Path | None = None
    ) -> None:
        self._notes = notes or Path(tempfile.mkdtemp(prefix="fedllm-docs-"))
        self.log = self._notes / "log"
        self._count = 0
        # Should this test be killed, everything in the namespaces goes with it.
        prefix = ["setpriv", "--pdeathsig", "KILL", *prefix] if prefix else []
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*prefix, "bash", "--noprofile", "--norc"],
                cwd=folder,
                env=env,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, step: Step, timeout: float = BLOCK) -> str:
        """Run a step; returns what it printed.

        Raises:
            BlockError: a command failed, or it took too long.
        """
        return self.type(_script(step, self._notes), step.place, timeout, beside=step.kind == "beside")

    def type(self, commands: str, place: str, timeout: float = BLOCK, *, beside: bool = False) -> str:
        """Run commands; returns what they printed."""
        self._count += 1
        block, done = self._notes / f"{self._count}.sh", self._notes / f"{self._count}.done"
        block.write_text(f"{{\n{commands}\n}} </dev/null &\n" if beside else commands, encoding="utf-8")
        block.chmod(0o644)
        before = self.log.stat().st_size
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            line = f"set -eo pipefail; . {block} </dev/null; set +e; echo done >{done}\n"
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        ends = time.monotonic() + timeout
        while not done.exists():
            died = self._process.poll() is not None
            if died and not done.exists():
                raise BlockError(f"{place} fails:\n{commands}\n{self._said(before)}")
            if time.monotonic() > ends:
                long = f"{place} takes more than {timeout:.0f} s"
                raise BlockError(f"{long}:\n{commands}\n{self._said(before)}")
            time.sleep(0.05)
        return self._said(before)

    def close(self) -> None:
        """End the shell and what it started beside itself, gently at first."""
        self._signal(signal.SIGTERM)
        ends = time.monotonic() + 10
        while self._signal(0) and time.monotonic() < ends:
            self._process.poll()  # else it would stay a zombie of its group
            time.sleep(0.02)
        self._signal(signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._notes, ignore_errors=True)

    def _signal(self, number: int) -> bool:
        """Send a signal to all of the shell's processes; False when there are none."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def _said(self, before: int) -> str:
        with self.log.open("rb") as log:
            log.seek(before)
            return log.read().decode(errors="replace")[-6000:]


def _script(step: Step, notes: Path) -> str:
    """A step as bash: a Python block is a file that the environment's Python runs.

    `! COMMAND` is said to fail, and `set -e` would not mind if it did not.
    """
    if step.language != "python":
        return re.sub(r"^! (.*[^\\\n])$", r"if \1; then exit 1; fi", step.text, flags=re.MULTILINE)
    path = notes / f"block-{step.line}.py"
    path.write_text(step.text, encoding="utf-8")
    path.chmod(0o644)
    return f"python {shlex.quote(str(path))}"


def page_environment(folder: Path, home: Path) -> dict[str, str]:
    """What a reader's shell has: the environment made by `make setup`, and nothing of this test's stacks."""
    foreign = ("PREFECT_", "MLFLOW_", "AWS_", "FEDLLM_", "PYTEST_", "MINIO_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    return kept | {
        "PATH": f"{BIN}:{kept['PATH']}",
        "VIRTUAL_ENV": str(BIN.parent),
        "PYTHONPATH": str(folder),  # the copy's package, not the one that the environment was made from
        "FEDLLM_HOME": str(home),
        "FEDLLM_CACHE": os.environ["FEDLLM_CACHE"],
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "COLUMNS": "110",
    }


def run_page(page: Path, folder: Path, *, starts_a_stack: bool = False, cold: int = 0) -> None:
    """Run a page's blocks in a fresh copy, with a home of its own; its stack is stopped at the end.

    Args:
        page: of the documentation.
        folder: for the copy and the home.
        starts_a_stack: its tables are there already.
        cold: so many of its steps are run as a reader's shell does; the commands of the others are forked
            from a process that has their imports (`warm_commands`).
    """
    home = folder / "home"
    if starts_a_stack:
        put_blank_databases(home)
    copy = fresh_copy(folder / "fedllm")
    with Shell(copy, page_environment(copy, home), alone()) as shell:
        try:
            for number, step in enumerate(step for step in steps(page) if step.kind != "not run"):
                if number == cold:
                    _warm(shell, folder)
                begun = time.monotonic()
                shell.run(step)
                sys.stdout.write(f"{time.monotonic() - begun:6.1f} s  {step.place} {step.kind}\n")
        finally:
            _stop_stack(shell)


def _warm(shell: Shell, folder: Path) -> None:
    """Put commands in front of the shell's own that ask a server, which starts here."""
    asked = folder / "warm"
    warm_commands.put_commands(folder / "bin", asked)
    served = f"python -P {warm_commands.__file__} serve {asked} {' '.join(warm_commands.LIBRARIES)}"
    shell.type(served, "the beginning", beside=True)
    shell.type(f"export PATH={folder / 'bin'}:$PATH", "the beginning")


def _stop_stack(shell: Shell) -> None:
    """In the same network and processes: the shell is there unless a block ended it."""
    with suppress(BlockError):
        shell.type("fedllm down", "the end", timeout=60)

"""supervisord holds the stack's processes: its configuration, its start, its control, its end."""

import os
import shlex
import subprocess
import sys
import time
import xmlrpc.client  # nosec B411  # supervisord alone answers, on its socket in a folder of mode 700
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from fedllm.endpoints.place import Place
from fedllm.errors import StackError
from fedllm.stack.last_words import last_words
from fedllm.stack.programs import Program

_STACK = "FEDLLM_STACK"  # in the environment of every process of a stack: its tag
_PATIENCE = 30.0  # s, for supervisord to stop all it holds


@dataclass(frozen=True)
class Process:
    """One process, as supervisord sees it."""

    name: str
    state: str  # such as RUNNING, BACKOFF or FATAL
    pid: int  # 0 while it does not run
    started: int  # s since the epoch, when it was last started


class Control:
    """Talks to a stack's supervisord over its unix socket (XML-RPC)."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def _call(self, method: str, *arguments: object) -> Any:  # noqa: ANN401 - what XML-RPC answers
        # A fresh connection a call: calls come from several threads.
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, f"unix://{self.place.socket()}")
        try:
            with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as proxy:
                return getattr(proxy.supervisor, method)(*arguments)
        finally:
            transport.close()

    def alive(self) -> bool:
        """Whether supervisord answers."""
        if not self.place.socket().exists():
            return False
        try:
            return bool(self._call("getState")["statename"] == "RUNNING")
        except (OSError, xmlrpc.client.Error):
            return False

    def processes(self) -> list[Process]:
        """Every process that supervisord holds. Raises `StackError` when supervisord is gone."""
        try:
            return [
                Process(entry["name"], entry["statename"], entry["pid"], entry["start"])
                for entry in self._call("getAllProcessInfo")
            ]
        except (OSError, xmlrpc.client.Error):
            log = self.place.logs / "supervisord.log"
            raise StackError(f"supervisord is gone: see {log}, then `fedllm up` again") from None

    def states(self) -> dict[str, str]:
        """The state of each process, by name, such as RUNNING, BACKOFF or FATAL."""
        return {process.name: process.state for process in self.processes()}

    def pids(self) -> dict[str, int]:
        """The process id of each process that runs, and supervisord's own."""
        found = {process.name: process.pid for process in self.processes() if process.pid}
        return found | {"supervisord": self._call("getPID")}

    def start(self, name: str) -> None:
        """Start a process unless it runs already."""
        try:
            self._call("startProcess", name, False)  # noqa: FBT003 - `wait`, by position
        except xmlrpc.client.Fault as fault:
            kind, _, detail = fault.faultString.partition(": ")
            if kind != "ALREADY_STARTED":
                # A program that is not there or may not be run has no log.
                words = detail if kind in {"NO_FILE", "NOT_EXECUTABLE"} else self.last_words(name)
                raise StackError(f"{name} does not start: {words}") from None

    def last_words(self, name: str, since: float = 0.0) -> str:
        """What a process' log says of its end, unless that is older than `since`; and where the rest is."""
        return last_words(self.place.logs / f"{name}.log", since)

    def shutdown(self) -> None:
        """Have supervisord stop every process, then itself; wait for that."""
        pid = self._call("getPID")
        self._call("shutdown")
        try:
            psutil.Process(pid).wait(_PATIENCE)
        except psutil.NoSuchProcess:
            return
        except psutil.TimeoutExpired:
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()


def write_conf(place: Place, programs: Iterable[Program]) -> None:
    """Write supervisord's configuration: mode 600, for it holds the servers' secrets."""
    parts = [
        f"""[supervisord]
logfile={_plain(place.logs / "supervisord.log")}
logfile_maxbytes=2MB
logfile_backups=1
pidfile={_plain(place.pidfile)}
directory={_plain(place.folder)}
umask=077
silent=true

[unix_http_server]
file={_plain(place.socket())}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""
    ]
    for program in programs:
        environment = ",".join(f'{key}="{_plain(value)}"' for key, value in program.env.items())
        parts.append(
            f"""[program:{program.name}]
command={_plain(shlex.join(program.argv))}
environment={environment}
directory={_plain(place.folder)}
autostart={str(program.autostart).lower()}
autorestart=true
startsecs=1
startretries=5
stopsignal=TERM
stopwaitsecs={program.stop_seconds}
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile={_plain(place.logs / program.name)}.log
stdout_logfile_maxbytes=5MB
stdout_logfile_backups=2
"""
        )
    place.write_private(place.conf, "\n".join(parts))


def _plain(value: object) -> str:
    """Escape what supervisord would expand."""
    return str(value).replace("%", "%%")


def start_daemon(place: Place, env: dict[str, str]) -> None:
    """Start supervisord in the background, with every process that starts by itself."""
    place.socket().unlink(missing_ok=True)
    argv = [sys.executable, "-m", "supervisor.supervisord", "-c", str(place.conf)]
    done = subprocess.run(argv, env=env, cwd=place.folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-300:]
        raise StackError(f"supervisord does not start: {said}")
    control = Control(place)
    deadline = time.monotonic() + 60
    while not control.alive():
        if time.monotonic() > deadline:
            raise StackError(f"supervisord does not answer: see {place.logs / 'supervisord.log'}")
        time.sleep(0.05)


def leftovers(place: Place) -> list[psutil.Process]:
    """Every process of this stack that is alive, whoever its parent is now.

    Never the caller's own line.
    """
    own = psutil.Process()
    mine = {own.pid, *(parent.pid for parent in own.parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid not in mine and _stack_of(process) == place.tag:
                found.append(process)
        except (psutil.Error, OSError):
            continue  # it ended, or belongs to someone else
    return found


def _stack_of(process: psutil.Process) -> str | None:
    """The tag of the stack that a process belongs to, from its environment; None for other processes.

    juicefs rewrites its command line and spoils the start of its environment with it, where psutil stops
    reading: so the whole block is searched where the system shows it.
    """
    block = Path(f"/proc/{process.pid}/environ")
    if not block.exists():
        return process.environ().get(_STACK)
    entries = (os.fsdecode(entry).partition("=") for entry in block.read_bytes().split(b"\0"))
    return next((value for name, _, value in entries if name == _STACK), None)


def sweep(place: Place) -> int:
    """End what outlived supervisord, such as its orphans after a kill -9; say how many there were."""
    found = leftovers(place)
    end(found)
    place.pidfile.unlink(missing_ok=True)
    place.socket().unlink(missing_ok=True)
    if left := leftovers(place):
        raise StackError(f"processes {[process.pid for process in left]} do not end: end them yourself")
    return len(found)


def end(processes: list[psutil.Process]) -> None:
    """End processes, gently at first."""
    for process in processes:
        _signal(process, kill=False)
    _, stubborn = psutil.wait_procs(processes, timeout=5)
    for process in stubborn:
        _signal(process, kill=True)
    psutil.wait_procs(stubborn, timeout=5)


def _signal(process: psutil.Process, *, kill: bool) -> None:
    try:
        if kill:
            process.kill()
        else:
            process.terminate()
    except psutil.NoSuchProcess:
        pass

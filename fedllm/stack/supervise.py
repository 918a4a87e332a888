"""Configure, start, control and stop supervisord, which runs the stack's processes."""

import os
import shlex
import subprocess
import sys
import time
import xmlrpc.client  # nosec B411  # only supervisord answers, on its socket in a folder of mode 700
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from fedllm.endpoints.stack_paths import StackPaths
from fedllm.errors import StackError
from fedllm.stack.log_tail import last_error
from fedllm.stack.programs import Program

_STACK = "FEDLLM_STACK"  # variable with the stack's tag in the environment of each of its processes
_PATIENCE = 30.0  # s for supervisord to stop all processes


@dataclass(frozen=True)
class Process:
    """One process in supervisord's view."""

    name: str
    state: str  # such as RUNNING, BACKOFF or FATAL
    pid: int  # 0 while it does not run
    started: int  # last start, s since 1970


class Control:
    """Client of a stack's supervisord, over its unix socket (XML-RPC)."""

    def __init__(self, place: StackPaths) -> None:
        self.place = place

    def _call(self, method: str, *arguments: object) -> Any:  # noqa: ANN401 - XML-RPC's answer
        # A new connection per call: calls come from several threads.
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, f"unix://{self.place.socket()}")
        try:
            with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as proxy:
                return getattr(proxy.supervisor, method)(*arguments)
        finally:
            transport.close()

    def alive(self) -> bool:
        """Return whether supervisord answers."""
        if not self.place.socket().exists():
            return False
        try:
            return bool(self._call("getState")["statename"] == "RUNNING")
        except (OSError, xmlrpc.client.Error):
            return False

    def processes(self) -> list[Process]:
        """Return all processes. Raises `StackError` if supervisord does not answer."""
        try:
            return [
                Process(entry["name"], entry["statename"], entry["pid"], entry["start"])
                for entry in self._call("getAllProcessInfo")
            ]
        except (OSError, xmlrpc.client.Error):
            log = self.place.logs / "supervisord.log"
            raise StackError(f"supervisord is gone: see {log}, then `fedllm up` again") from None

    def states(self) -> dict[str, str]:
        """Return each process's state by name, such as RUNNING, BACKOFF or FATAL."""
        return {process.name: process.state for process in self.processes()}

    def pids(self) -> dict[str, int]:
        """Return the id of each running process by name, and supervisord's own."""
        running = {process.name: process.pid for process in self.processes() if process.pid}
        return running | {"supervisord": self._call("getPID")}

    def start(self, name: str) -> None:
        """Start a process unless it runs."""
        try:
            self._call("startProcess", name, False)  # noqa: FBT003 - `wait`, by position
        except xmlrpc.client.Fault as fault:
            kind, _, detail = fault.faultString.partition(": ")
            if kind != "ALREADY_STARTED":
                # A program that is missing or not executable has no log.
                reason = detail if kind in {"NO_FILE", "NOT_EXECUTABLE"} else self.last_error(name)
                raise StackError(f"{name} does not start: {reason}") from None

    def last_error(self, name: str, since: float = 0.0) -> str:
        """Return the last error in a process's log, as `log_tail.last_error`."""
        return last_error(self.place.logs / f"{name}.log", since)

    def shutdown(self) -> None:
        """Make supervisord stop every process and itself, and wait for its end."""
        pid = self._call("getPID")
        self._call("shutdown")
        try:
            psutil.Process(pid).wait(_PATIENCE)
        except psutil.NoSuchProcess:
            return
        except psutil.TimeoutExpired:
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()


def write_conf(place: StackPaths, programs: Iterable[Program]) -> None:
    """Write supervisord's configuration, in mode 600 since it has the servers' secrets."""
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
    """Escape the characters that supervisord would expand."""
    return str(value).replace("%", "%%")


def start_daemon(place: StackPaths, env: dict[str, str]) -> None:
    """Start supervisord in the background with every autostart process."""
    place.socket().unlink(missing_ok=True)
    argv = [sys.executable, "-m", "supervisor.supervisord", "-c", str(place.conf)]
    done = subprocess.run(argv, env=env, cwd=place.folder, capture_output=True, text=True, check=False)
    if done.returncode:
        output = " ".join((done.stderr or done.stdout).split())[-300:]
        raise StackError(f"supervisord does not start: {output}")
    control = Control(place)
    deadline = time.monotonic() + 60
    while not control.alive():
        if time.monotonic() > deadline:
            raise StackError(f"supervisord does not answer: see {place.logs / 'supervisord.log'}")
        time.sleep(0.05)


def leftovers(place: StackPaths) -> list[psutil.Process]:
    """Return every living process of this stack, whatever its parent, but not the caller or its ancestors."""
    caller = psutil.Process()
    excluded = {caller.pid, *(parent.pid for parent in caller.parents())}
    processes = []
    for process in psutil.process_iter():
        try:
            if process.pid not in excluded and _stack_of(process) == place.tag:
                processes.append(process)
        except (psutil.Error, OSError):
            continue  # it ended, or belongs to another user
    return processes


def _stack_of(process: psutil.Process) -> str | None:
    """Return the tag of a process's stack from its environment; None if it belongs to no stack.

    juicefs rewrites its command line and overwrites the start of its environment, where psutil stops reading.
    So the whole environment block is searched where /proc shows it.
    """
    block = Path(f"/proc/{process.pid}/environ")
    if not block.exists():
        return process.environ().get(_STACK)
    entries = (os.fsdecode(entry).partition("=") for entry in block.read_bytes().split(b"\0"))
    return next((value for name, _, value in entries if name == _STACK), None)


def sweep(place: StackPaths) -> int:
    """End the processes that outlived supervisord, such as orphans after a kill -9; return their count."""
    processes = leftovers(place)
    end(processes)
    place.pidfile.unlink(missing_ok=True)
    place.socket().unlink(missing_ok=True)
    if left := leftovers(place):
        raise StackError(f"processes {[process.pid for process in left]} do not end: end them yourself")
    return len(processes)


def end(processes: list[psutil.Process]) -> None:
    """End processes by SIGTERM, then by SIGKILL."""
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

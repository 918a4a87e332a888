"""Wait for the stack's processes: be patient with a slow one, give up one that dies repeatedly."""

import threading
import time
from collections.abc import Callable

from fedllm.errors import StackError
from fedllm.stack.health import wait_until
from fedllm.stack.supervise import Control, Process

_PATIENCE = 400.0  # s until a server must answer; the first start on a slow disk takes most of a minute
_DEATHS = 3  # of one process per start; after one death the port or database may be free again
_REMINDER = 60.0  # s between two lines about the same wait


class Startup:
    """The processes that one `up` starts, watched until they answer.

    supervisord gives up only a process that never lives for 1 s. It restarts one that fails later without
    end, such as a worker that first imports Prefect for 10 s, so this class counts deaths.

    Args:
        control: of the stack's supervisord.
        progress: called with a line per death, and one per minute for a process that does not answer.
    """

    def __init__(self, control: Control, progress: Callable[[str], None]) -> None:
        self._control = control
        self._progress = progress
        self._lives: dict[str, set[int]] = {}  # name -> ids of the processes that lived for 1 s
        self._deaths: dict[str, int] = {}
        self._started: dict[str, int] = {}  # name -> last start, s since 1970
        self._lock = threading.Lock()  # each server has its own waiting thread

    def start(self, name: str) -> None:
        """Start a process unless it runs, and watch it from now on."""
        self._control.start(name)
        with self._lock:
            self._lives.setdefault(name, set())
            self._deaths.setdefault(name, 0)

    def wait(self, name: str, ready: Callable[[], bool], patience: float = _PATIENCE) -> bool:
        """Wait until a server is ready, and return False if it was ready at once.

        Args:
            name: of the server; one without a call of `start` is the user's own, such as a Prefect.
            ready: returns whether the server is ready.
            patience: s to wait while the process lives.

        Raises:
            StackError: it is not ready in time, or a process of this start died too often or cannot run.
        """
        if ready():
            return False
        begun = reminded = time.monotonic()

        def check() -> None:
            nonlocal reminded
            self.check()
            if time.monotonic() - reminded > _REMINDER:
                reminded = time.monotonic()
                self._progress(f"{name} does not answer after {reminded - begun:.0f} s{self._reason(name)}")

        wait_until(name, ready, check, patience, lambda: self._reason(name))
        return True

    def check(self) -> None:
        """Raise `StackError` with the last error if a process of this start died too often or cannot run."""
        processes = self._control.processes()
        with self._lock:
            for process in processes:
                if process.name in self._lives:
                    self._check_process(process)

    def _check_process(self, process: Process) -> None:
        name, lives = process.name, self._lives[process.name]
        self._started[name] = process.started
        if process.state == "FATAL":
            raise StackError(f"{name} does not start: {self._control.last_error(name)}")
        if process.state == "RUNNING":
            lives.add(process.pid)
        deaths = len(lives - {process.pid})
        if deaths >= _DEATHS:
            raise StackError(f"{name} died {deaths} times while it started: {self._control.last_error(name)}")
        if deaths > self._deaths[name]:
            self._deaths[name] = deaths
            self._progress(f"{name} died and is started again: {self._control.last_error(name)}")

    def _reason(self, name: str) -> str:
        """Return the last error in the log since the process started; "" for a server of the user."""
        started = self._started.get(name)
        return "" if started is None else f": {self._control.last_error(name, started)}"

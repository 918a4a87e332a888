"""Waiting for the stack's processes: a slow one is waited for, one that dies again and again is not."""

import threading
import time
from collections.abc import Callable

from fedllm.errors import StackError
from fedllm.stack.health import wait_until
from fedllm.stack.supervise import Control, Process

_PATIENCE = 400.0  # s until a server must answer; a slow disk's first start takes most of a minute
_DEATHS = (
    3  # of one process during one start: a server that dies once may find its port or database free again
)
_REMINDER = 60.0  # s between two lines about the same wait


class Startup:
    """The processes that one `up` starts, and what becomes of them until they answer.

    supervisord gives up only a process that never lives for a second. One that fails later, such as a worker
    that imports Prefect for ten seconds first, it starts again without end: here its deaths are counted.

    Args:
        control: of the stack's supervisord.
        progress: hears a line for each death, and one a minute for a process that is waited for.
    """

    def __init__(self, control: Control, progress: Callable[[str], None]) -> None:
        self._control = control
        self._progress = progress
        self._lives: dict[str, set[int]] = {}  # by name, the process ids that lived for a second
        self._deaths: dict[str, int] = {}
        self._started: dict[str, int] = {}  # s since the epoch, each one's last start
        self._lock = threading.Lock()  # each server has a thread that waits for it

    def start(self, name: str) -> None:
        """Start a process unless it runs already, and look after it from now on."""
        self._control.start(name)
        with self._lock:
            self._lives.setdefault(name, set())
            self._deaths.setdefault(name, 0)

    def wait(self, name: str, ready: Callable[[], bool], patience: float = _PATIENCE) -> bool:
        """Wait until a server is ready; return whether it took any waiting.

        Args:
            name: of the server; one that `start` was not called for is the user's own, such as a Prefect.
            ready: whether it is there.
            patience: seconds to wait for it while it lives.

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
                self._progress(f"{name} does not answer after {reminded - begun:.0f} s{self._said(name)}")

        wait_until(name, ready, check, patience, lambda: self._said(name))
        return True

    def check(self) -> None:
        """Raise `StackError` when a process of this start has given up, with its last words."""
        processes = self._control.processes()
        with self._lock:
            for process in processes:
                if process.name in self._lives:
                    self._look_at(process)

    def _look_at(self, process: Process) -> None:
        name, lives = process.name, self._lives[process.name]
        self._started[name] = process.started
        if process.state == "FATAL":
            raise StackError(f"{name} does not start: {self._control.last_words(name)}")
        if process.state == "RUNNING":
            lives.add(process.pid)
        deaths = len(lives - {process.pid})
        if deaths >= _DEATHS:
            raise StackError(f"{name} died {deaths} times while it started: {self._control.last_words(name)}")
        if deaths > self._deaths[name]:
            self._deaths[name] = deaths
            self._progress(f"{name} died and is started again: {self._control.last_words(name)}")

    def _said(self, name: str) -> str:
        """What a process that lives has said since its start; nothing of one that is not this stack's."""
        started = self._started.get(name)
        return "" if started is None else f": {self._control.last_words(name, started)}"

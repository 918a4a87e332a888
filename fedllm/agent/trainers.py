"""Run jobs, in a child process that may die alone, or in this process."""

import contextlib
import logging
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fedllm.agent.job import Event, Failed, Job, StepDone, Workbench, failure, is_explained
from fedllm.agent.limits import TOO_MUCH, bind_memory, holds_too_much, ran_out_of_memory
from fedllm.agent.warm import name_process, warm_context
from fedllm.logs import log_as_asked

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

log = logging.getLogger(__name__)


class Trainer(Protocol):
    """Runs jobs, one at a time."""

    def start(self, job: Job) -> None:
        """Begin a job."""

    def poll(self) -> Event | None:
        """Return the next event of the job under way; None if there is no new one."""

    def cancel(self) -> None:
        """Stop the job under way at once; its output is not used."""


def _serve(
    pipe: "Connection[Any, Any]", environment: dict[str, str], log_file: Path | None, memory: int | None
) -> None:
    """Run the child process: receive jobs and send events until the parent ends.

    Args:
        pipe: to the parent.
        environment: the parent's; the server that this process was forked from may have had another.
        log_file: takes what this process writes to stderr; None leaves it as it is.
        memory: bytes that this process may take; None: no limit.
    """
    name_process("fedllm training")
    os.environ.clear()
    os.environ.update(environment)
    if log_file is not None:
        with log_file.open("ab") as opened:
            os.dup2(opened.fileno(), sys.stderr.fileno())
    log_as_asked()
    if memory is not None:
        bind_memory(memory)
    bench = Workbench()
    # A parent that was killed closes the pipe: the next send or receive ends this process.
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        while True:
            job = pipe.recv()
            try:
                done = bench.perform(job, lambda step, steps: pipe.send(StepDone(step, steps)))
            except BrokenPipeError:
                return
            except Exception as error:
                if ran_out_of_memory(error):
                    traceback.clear_frames(error.__traceback__)  # free what they hold: going on needs memory
                # Details go to the site's own log; the coordinator gets only the reason.
                if not is_explained(error):
                    log.exception("training failed")
                pipe.send(failure(error))
            else:
                pipe.send(done)


class ChildTrainer:
    """Runs jobs in a child process, which is started on first use and again after it died.

    The child is forked from a server that has loaded the training libraries (`fedllm.agent.warm`).
    """

    def __init__(
        self, log_file: Path | None = None, base: Path | None = None, memory: int | None = None
    ) -> None:
        """Begin to start the server, without waiting for it.

        Args:
            log_file: takes what the child writes to stderr: its errors may quote records.
            base: folder of the jobs' base model, which the server loads ahead.
            memory: bytes that the child may take, including those it shares with the server; None: no limit.
        """
        self._log_file = log_file
        self._memory = memory
        self._context = warm_context(base)
        self._process: BaseProcess | None = None
        self._pipe: Connection[Any, Any] | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        return self._process.pid if self._process else None

    def start(self, job: Job) -> None:
        """Send the job to the child."""
        if self._process is None or not self._process.is_alive():
            self._pipe, theirs = self._context.Pipe()
            arguments = (theirs, dict(os.environ), self._log_file, self._memory)
            self._process = self._context.Process(target=_serve, args=arguments, name="training", daemon=True)
            self._process.start()
            theirs.close()
        assert self._pipe is not None  # noqa: S101 - set together with the process
        self._pipe.send(job)

    def poll(self) -> Event | None:
        """Return the child's next event; `Failed(died=True)` if the child has died.

        Ends a child whose job failed, so the next job starts with all of that job's memory freed.
        """
        if self._pipe is None:
            return None
        try:
            if self._pipe.poll():
                event: Event = self._pipe.recv()
                if isinstance(event, Failed):
                    self.cancel()
                return event
            if self._memory is not None and holds_too_much(self.pid, self._memory):
                self.cancel()
                return Failed(TOO_MUCH)
        except (EOFError, OSError):
            self.cancel()
            return Failed("the training process died", died=True)
        return None

    def cancel(self) -> None:
        """Kill the child: nothing else can interrupt a step."""
        if self._process is not None:
            self._process.kill()
            self._process.join(5)
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


class InlineTrainer:
    """Runs jobs in this process, one at a time over all sites: for simulation, without isolation."""

    def __init__(self, bench: Workbench, lock: threading.Lock) -> None:
        self._bench = bench
        self._lock = lock
        self._event: Event | None = None

    def start(self, job: Job) -> None:
        """Run the job now."""
        with self._lock:
            try:
                self._event = self._bench.perform(job, lambda _step, _steps: None)
            except Exception as error:
                if not is_explained(error):
                    log.exception("training failed")
                self._event = failure(error)

    def poll(self) -> Event | None:
        """Return the job's outcome, once."""
        event, self._event = self._event, None
        return event

    def cancel(self) -> None:
        """Drop the outcome: no job is under way between two calls."""
        self._event = None

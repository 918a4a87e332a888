"""Control a flow run's output: log our own errors in one line, and survive a closed pipe."""

import logging
import os

from rich.console import Console

from fedllm.errors import FedllmError

_LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")


def survive_broken_pipes() -> None:
    """Let this process continue when the reader of its output, a worker or a terminal, has died.

    Prefect logs through rich, which exits the process at a broken pipe. Prefect's server has the log anyway.
    """
    Console.on_broken_pipe = _discard_output  # type: ignore[method-assign, assignment]  # rich offers no other way


def log_errors_in_one_line() -> None:
    """Make Prefect log a `FedllmError` in one line; its traceback is kept only if FEDLLM_DEBUG is set."""
    if not os.environ.get("FEDLLM_DEBUG"):
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(_one_line)  # adding it twice has no effect


def _one_line(record: logging.LogRecord) -> bool:
    """Replace a `FedllmError`'s traceback by its message."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, FedllmError):
        record.exc_info, record.msg, record.args = None, str(error), ()
    return True


def _discard_output(console: Console) -> None:
    """Redirect the console's stream to /dev/null; the other stream may still have a reader."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, console.file.fileno())
    os.close(devnull)

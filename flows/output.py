"""What a flow run says: our own errors in one line, also when nobody reads it any more."""

import logging
import os

from rich.console import Console

from fedllm.errors import FedllmError

_LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")


def outlive_readers() -> None:
    """Let this process go on when the reader of its output dies: the worker that started it, or a terminal.

    Prefect logs through rich, which ends the whole process at a broken pipe. Prefect's server has the log
    all the same.
    """
    Console.on_broken_pipe = _unread  # type: ignore[method-assign, assignment]  # rich offers no other way


def log_errors_in_one_line() -> None:
    """Have Prefect log a `FedllmError` as one line, without its traceback unless FEDLLM_DEBUG is set."""
    if not os.environ.get("FEDLLM_DEBUG"):
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(_one_line)  # the same function again changes nothing


def _one_line(record: logging.LogRecord) -> bool:
    """Drop the traceback of a `FedllmError`; keep its line."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, FedllmError):
        record.exc_info, record.msg, record.args = None, str(error), ()
    return True


def _unread(console: Console) -> None:
    """Send what would still be written there to nowhere; the other stream may have its reader."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, console.file.fileno())
    os.close(nowhere)

"""What a flow run says, when nobody reads it any more."""

import os

from rich.console import Console


def outlive_readers() -> None:
    """Let this process go on when the reader of its output dies: the worker that started it, or a terminal.

    Prefect logs through rich, which ends the whole process at a broken pipe. Prefect's server has the log
    all the same.
    """
    Console.on_broken_pipe = _unread  # type: ignore[method-assign, assignment]  # rich offers no other way


def _unread(console: Console) -> None:
    """Send what would still be written there to nowhere; the other stream may have its reader."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, console.file.fileno())
    os.close(nowhere)

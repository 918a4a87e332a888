"""What a server's log says of its end."""

import os
from contextlib import suppress
from pathlib import Path

_TAIL = 64 * 1024  # bytes of a log that are read
_AFTER = 3  # lines that a program may write after the exception that ends it
_LENGTH = 300  # characters of a line that are shown


def last_words(log: Path, since: float = 0.0) -> str:
    """The exception that ended a log, or else its last line; and where the rest is.

    Args:
        log: a server's log, which need not be there yet.
        since: a log that was not written since then, in seconds since the epoch, says nothing.
    """
    lines: list[str] = []
    with suppress(OSError), log.open("rb") as file:
        found = os.fstat(file.fileno())
        if found.st_mtime >= since:
            file.seek(max(0, found.st_size - _TAIL))
            lines = file.read().decode(errors="replace").strip().splitlines()
    words = (_exception(lines) or lines[-1]).strip()[:_LENGTH] if lines else "it said nothing"
    return f"{words} (see {log})"


def _exception(lines: list[str]) -> str | None:
    """The exception of the last traceback, unless the program went on after it.

    Prefect's commands end with a traceback and a line that says nothing.
    """
    starts = [i for i, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    if not starts:
        return None
    ends = [i for i, line in enumerate(lines[starts[-1] :], starts[-1]) if line and not line[0].isspace()]
    # ends[0] is the traceback's head, and ends[1] the first line after its indented frames.
    return lines[ends[1]] if len(ends) > 1 and len(lines) - ends[1] <= 1 + _AFTER else None

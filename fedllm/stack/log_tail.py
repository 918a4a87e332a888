"""Find the last error in a server's log."""

import os
from contextlib import suppress
from pathlib import Path

_TAIL = 64 * 1024  # bytes of a log that are read
_AFTER = 3  # lines that a program may write after its final exception
_LENGTH = 300  # characters shown of a line


def last_error(log: Path, since: float = 0.0) -> str:
    """Return the exception that ended a log, else its last line, followed by the log's path.

    Args:
        log: a server's log, which need not exist.
        since: s since 1970; a log not written since then counts as empty.
    """
    lines: list[str] = []
    with suppress(OSError), log.open("rb") as file:
        status = os.fstat(file.fileno())
        if status.st_mtime >= since:
            file.seek(max(0, status.st_size - _TAIL))
            lines = file.read().decode(errors="replace").strip().splitlines()
    line = (_exception(lines) or lines[-1]).strip()[:_LENGTH] if lines else "no output"
    return f"{line} (see {log})"


def _exception(lines: list[str]) -> str | None:
    """Return the exception of the last traceback, unless the program continued after it.

    Prefect's commands end with a traceback and an uninformative line.
    """
    starts = [i for i, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    if not starts:
        return None
    ends = [i for i, line in enumerate(lines[starts[-1] :], starts[-1]) if line and not line[0].isspace()]
    # ends[0] is the traceback's first line, and ends[1] the first line after its indented frames.
    return lines[ends[1]] if len(ends) > 1 and len(lines) - ends[1] <= 1 + _AFTER else None

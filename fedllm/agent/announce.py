"""Announce new data: a number on the site's card that only rises.

If the site publishes its count of records, the agent raises the number when the data file changes. Otherwise
that would release information without a privacy charge: a person runs `fedllm site announce`.
"""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from fedllm.agent.memory import Memory
from fedllm.errors import EquivocationError, FedllmError

log = logging.getLogger(__name__)

MARK = "announced"  # the number's name in the site's memory


def announce(memory: Memory) -> int:
    """Raise the number and return it; the agent's next card shows it."""
    number = memory.value(MARK) + 1
    memory.rise(MARK, number)
    return number


class DataWatch:
    """Detects that a site's data file has changed since the number was last raised.

    Waits for a file that is being written: it must be unchanged between two looks.
    """

    def __init__(self, path: Path, memory: Memory) -> None:
        self._path, self._memory = path, memory
        self._before: tuple[int, int] | None = None  # size and time of change at the last look
        self._hashed: tuple[int, int] | None = None  # of the file whose content was hashed

    def look(self, count: Callable[[], int]) -> int | None:
        """Announce a file that changed.

        Args:
            count: reads the data and returns the number of records.

        Returns:
            The new count; None if nothing changed or the file cannot be read.
        """
        try:
            stat = self._path.stat()
            current = (stat.st_size, stat.st_mtime_ns)
            settled, self._before = current == self._before, current
            if not settled or current == self._hashed:
                return None
            sha256 = _sha256(self._path)
        except OSError as error:
            log.warning("the data file cannot be checked: %s", error)
            return None
        self._hashed = current
        number = self._memory.value(MARK)
        try:
            self._memory.rise(MARK, number, sha256)  # raises if another file was announced under this number
        except EquivocationError:
            return self._announce(number + 1, sha256, count)
        return None

    def _announce(self, number: int, sha256: str, count: Callable[[], int]) -> int | None:
        try:
            records = count()
        except FedllmError as error:
            log.warning("the data changed and cannot be read, so nothing is announced: %s", error)
            return None
        self._memory.rise(MARK, number, sha256)
        log.info("the data changed: announced with number %d", number)
        return records


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

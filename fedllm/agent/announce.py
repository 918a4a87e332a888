"""New data, announced: a number on the site's card that only rises, and only as the site wants it.

Where the site tells how many records it has, the agent raises the number by itself when the data file is
another one. Elsewhere that would be a release that nobody paid for: a person says `fedllm site announce`.
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
    """Raise the number; the agent's next card shows it."""
    number = memory.value(MARK) + 1
    memory.rise(MARK, number)
    return number


class DataWatch:
    """Notices that a site's data file is not the one that it was when the number was raised last.

    A file that is being written is waited for: it has to look the same at two looks.
    """

    def __init__(self, path: Path, memory: Memory) -> None:
        self._path, self._memory = path, memory
        self._before: tuple[int, int] | None = None  # size and time of change at the last look
        self._known: tuple[int, int] | None = None  # of the file whose content was looked at

    def look(self, count: Callable[[], int]) -> int | None:
        """Announce a file that changed.

        Args:
            count: reads the data, and says how many records they are.

        Returns:
            The new count, or None: nothing changed, or what changed cannot be read.
        """
        try:
            found = self._path.stat()
            now = (found.st_size, found.st_mtime_ns)
            settled, self._before = now == self._before, now
            if not settled or now == self._known:
                return None
            sha256 = _sha256(self._path)
        except OSError as error:
            log.warning("the data cannot be looked at: %s", error)
            return None
        self._known = now
        number = self._memory.value(MARK)
        try:
            self._memory.rise(MARK, number, sha256)  # the first one, or the one that is known
        except EquivocationError:
            return self._changed(number + 1, sha256, count)
        return None

    def _changed(self, number: int, sha256: str, count: Callable[[], int]) -> int | None:
        try:
            records = count()
        except FedllmError as error:
            log.warning("the data changed and cannot be read, so nothing is announced: %s", error)
            return None
        self._memory.rise(MARK, number, sha256)
        log.info("the data changed: announced, the site's number %d", number)
        return records


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Check that a site's records fit a plan's task, before the site accepts a round without DP.

Under DP there is no such check: taking part must not depend on the records (docs/decisions/0024).
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from fedllm.agent.join import Membership
from fedllm.agent.policy import Decision
from fedllm.config import TaskConfig
from fedllm.data.forgotten_file import FILE, LOG
from fedllm.data.site_records import site_records
from fedllm.errors import DataError, IdentityError

log = logging.getLogger(__name__)

_FileState = tuple[object, ...]


@dataclass
class RecordCheck:
    """Checks one site's data file, again when the file, the withdrawals or the task change."""

    data: Path
    home: Path
    most: float  # the share of the rows that may be left out, from 0 to 1
    _seen: _FileState | None = field(default=None, init=False)
    _objection: str | None = field(default=None, init=False)

    @classmethod
    def of(cls, member: Membership) -> "RecordCheck":
        """Make the check of a member's data file by its policy."""
        return cls(member.site.data, member.home, member.site.policy.max_left_out)

    def objection(self, task: TaskConfig) -> Decision | None:
        """Return a decline if too many rows are unusable, else None; details go only to the site's log."""
        looked_at = (self.data, self.home / FILE, self.home / LOG)
        seen = (*map(_state, looked_at), task.model_dump_json())
        if seen != self._seen:
            self._objection = self._read(task)
            self._seen = seen
        return Decision("decline", reason=self._objection, event="policy") if self._objection else None

    def _read(self, task: TaskConfig) -> str | None:
        """Return the public reason to decline, without counts, labels or paths; None to accept."""
        try:
            records = site_records(self.data, task, self.home)
        except (DataError, IdentityError) as error:
            log.error("the records cannot be read: %s", error)  # noqa: TRY400 - the one line says all
            return "the site's records cannot be read; the site's own log says why"
        if not records.usable:
            records.log(logging.ERROR, str(self.data))
            return "the site's records do not fit the plan's task; the site's own log says which and why"
        if records.share > self.most:
            more = f"; more than policy.max_left_out, {self.most:g}: fix the file, or raise that in site.yaml"
            records.log(logging.ERROR, str(self.data), more)
            return (
                f"more of the site's records do not fit the plan's task than its policy allows to leave out "
                f"({self.most:g} of them); the site's own log says which and why"
            )
        return None


def _state(path: Path) -> tuple[int, int, int] | None:
    """Return a file's inode, size and time of change, to detect changes; None if there is no file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns

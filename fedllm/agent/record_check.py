"""Whether a site's records are fit for a plan's task, before a round without DP is promised.

Under DP nobody asks: whether a site takes part must not rest on its records (docs/decisions/0024).
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

_Look = tuple[object, ...]


@dataclass
class RecordCheck:
    """One site's data file, read again when it, the withdrawals or the task are others than before."""

    data: Path
    home: Path
    most: float  # the share of the rows that may be left out, from 0 to 1
    _seen: _Look | None = field(default=None, init=False)
    _objection: str | None = field(default=None, init=False)

    @classmethod
    def of(cls, member: Membership) -> "RecordCheck":
        """The check of a member's own file, by its own policy."""
        return cls(member.site.data, member.home, member.site.policy.max_left_out)

    def objection(self, task: TaskConfig) -> Decision | None:
        """A decline when too many rows cannot be used; what they are is for the site's own log alone."""
        looked_at = (self.data, self.home / FILE, self.home / LOG)
        seen = (*map(_state, looked_at), task.model_dump_json())
        if seen != self._seen:
            self._objection = self._read(task)
            self._seen = seen
        return Decision("decline", reason=self._objection, event="policy") if self._objection else None

    def _read(self, task: TaskConfig) -> str | None:
        """Why no round is promised, as others may know it: no number, no label, no path."""
        try:
            found = site_records(self.data, task, self.home)
        except (DataError, IdentityError) as error:
            log.error("the records cannot be read: %s", error)  # noqa: TRY400 - the one line says all
            return "the site's records cannot be read; the site's own log says why"
        if not found.usable:
            found.log(logging.ERROR, str(self.data))
            return "the site's records do not fit the plan's task; the site's own log says which and why"
        if found.share > self.most:
            more = (
                f"; more than policy.max_left_out, {self.most:g}: mend the file, or raise that in site.yaml"
            )
            found.log(logging.ERROR, str(self.data), more)
            return (
                f"more of the site's records do not fit the plan's task than its policy lets be left out "
                f"({self.most:g} of them); the site's own log says which and why"
            )
        return None


def _state(path: Path) -> tuple[int, int, int] | None:
    """What tells that a file is another one: its inode, size and time of change; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns

"""Split a site's records into those a task can train on and those left out, with reasons."""

import base64
import binascii
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from fedllm.config import TaskConfig
from fedllm.data.forget import Forgotten
from fedllm.data.minimise import needed_fields
from fedllm.data.records import Record
from fedllm.data.rows import Fault, Row, read_rows, scan_rows
from fedllm.errors import DataError
from fedllm.text import one_line

log = logging.getLogger(__name__)

PIXELS = 28 * 28  # bytes of an image, row-major
CHARACTERS = 16  # of a text per token of `max_length`, at most: training sees no more of it
_NAMED = 20  # labels that a reason lists
_SHOWN = 3  # reasons, and lines per reason, that are listed; the others are counted


@dataclass(frozen=True)
class SiteRecords:
    """A data file's usable rows and the others. Withdrawn records are in neither list."""

    usable: Sequence[Row]
    left_out: Sequence[Fault]  # in line order

    @property
    def share(self) -> float:
        """The share of rows left out, from 0 to 1; 1 if there are no rows."""
        rows = len(self.usable) + len(self.left_out)
        return len(self.left_out) / rows if rows else 1.0

    def log(self, level: int, where: str, advice: str = "") -> None:
        """Log how many rows are left out, and the first reasons with line numbers.

        The reasons are the text of an error: logs in JSON, which are sent elsewhere, omit it.
        """
        rows = len(self.usable) + len(self.left_out)
        why = DataError(listed(self.left_out))
        log.log(level, "%s: %d of %d rows are left out: %s%s", where, len(self.left_out), rows, why, advice)


def site_records(path: Path, task: TaskConfig, home: Path | None) -> SiteRecords:
    """Read a site's data file for a task.

    A row is left out if its line is not a record, or if the task cannot read the record. This never
    depends on another row: record-level privacy relies on it.

    Args:
        path: JSON lines.
        task: from the plan.
        home: the site's folder, which holds the withdrawals; None: there are none.

    Raises:
        DataError: the file or the withdrawals cannot be read.
    """
    rows, faults = scan_rows(path)
    return fitting(rows if home is None else not_withdrawn(rows, home), faults, task)


def not_withdrawn(rows: Sequence[Row], home: Path) -> list[Row]:
    """Return the rows that were not withdrawn.

    Raises:
        DataError: the withdrawals cannot be read.
    """
    kept = {id(record) for record in Forgotten.load(home).keep(row.record for row in rows)}
    return [row for row in rows if id(row.record) in kept]


def site_rows(path: Path) -> tuple[list[Row], list[Fault]]:
    """Read a site's data file: its records, and the lines that are not records.

    Raises:
        DataError: the file is absent, unreadable or without a record; with advice for a site.
    """
    try:
        path.stat()
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; name this site's JSON lines: --data FILE, `data` in site.yaml"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    return read_rows(path)


def fitting(rows: Iterable[Row], faults: Iterable[Fault], task: TaskConfig) -> SiteRecords:
    """Split rows by whether the task can read them; `faults` are lines that are not records."""
    fit, usable, left_out = Fit(task), [], list(faults)
    reasons: dict[str, str] = {}  # each kept once, for any number of rows
    for row in rows:
        if (reason := fit.fault(row.record)) is None:
            usable.append(row)
        else:
            left_out.append(Fault(row.line, reasons.setdefault(reason, reason)))
    return SiteRecords(usable, sorted(left_out, key=lambda fault: fault.line))


class Fit:
    """A task's requirements for each record, from a plan or a federation file."""

    def __init__(self, task: TaskConfig) -> None:
        self._task = task
        self._wanted = sorted(needed_fields(task, None))
        self._alike = {label.strip().casefold(): label for label in task.labels}
        self._labels = one_line(", ".join(islice(task.labels, _NAMED)))
        if len(task.labels) > _NAMED:
            self._labels += ", …"

    def fault(self, record: Record) -> str | None:
        """Return why the task cannot read a record; None if it can."""
        task = self._task
        if missing := [field for field in self._wanted if field not in record]:
            has = ", ".join(map(repr, sorted(record))) or "none"
            return one_line(f"no field {missing[0]!r}; it has {has}")
        if task.traits.labels:
            label = record[task.fields["label"]]
            if label not in task.labels:
                meant = self._alike.get(label.strip().casefold())
                hint = f"; did you mean {meant!r}?" if meant else ""
                return one_line(f"label {label[:40]!r} is not in task.labels ({self._labels}){hint}")
        if task.traits.input == "image":
            return _image_fault(record[task.fields["image"]])
        if task.traits.continues and self._wanted and not any(record[name].strip() for name in self._wanted):
            return "its text is empty"
        return None


def _image_fault(encoded: str) -> str | None:
    try:
        pixels = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return "its image is not base64"
    return None if len(pixels) == PIXELS else f"its image has {len(pixels)} bytes, not {PIXELS}"


def listed(faults: Sequence[Fault], most: int = _SHOWN) -> str:
    """Format the first reasons with their first line numbers, and the number of the others."""
    lines: dict[str, list[int]] = {}
    for fault in faults:
        lines.setdefault(fault.reason, []).append(fault.line)
    entries = [f"{_numbered(numbers, most)}: {reason}" for reason, numbers in list(lines.items())[:most]]
    more = sum(map(len, list(lines.values())[most:]))
    return "; ".join([*entries, f"and {more} more"] if more else entries)


def _numbered(lines: Sequence[int], most: int) -> str:
    named = ", ".join(map(str, lines[:most]))
    more = f" and {len(lines) - most} more" if len(lines) > most else ""
    return f"line {named}" if len(lines) == 1 else f"lines {named}{more}"

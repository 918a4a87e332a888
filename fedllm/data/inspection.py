"""A look at a site's data file before it takes part: what is left out, cut, doubled, and how often.

Everything here is for the site's own eyes: lines may quote labels and ids.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fedllm.config import TaskConfig
from fedllm.data.records import content
from fedllm.data.rows import Fault, Row
from fedllm.data.site_records import fitting, listed

Cut = Callable[[Row], bool]  # whether training reads less of a record than it holds

_LONG = 1 << 20  # characters of a row beyond which it is named as long, whatever the task is
_USUAL = 0.9  # of the rows: a field that so many have is missed where it is absent


@dataclass(frozen=True)
class Inspection:
    """What is found in a data file."""

    rows: int  # that are not empty
    left_out: Sequence[Fault]  # rows that no training uses
    notices: dict[str, Sequence[Fault]] = field(default_factory=dict)  # rows that it uses all the same
    labels: dict[str, int] = field(default_factory=dict)  # of the usable rows
    withdrawn: int = 0  # records that are in no other number

    @property
    def usable(self) -> int:
        """Rows that training draws from."""
        return self.rows - len(self.left_out)

    @property
    def share(self) -> float:
        """The share of the rows that is left out, from 0 to 1."""
        return len(self.left_out) / self.rows if self.rows else 1.0

    def lines(self) -> list[str]:
        """For people: first what is left out, then what is worth knowing, the first few rows by line."""
        told = []
        if self.left_out:
            told.append(f"{len(self.left_out)} of {self.rows} rows are left out: {listed(self.left_out)}")
        if self.labels:
            told.append("labels: " + ", ".join(f"{name} {count}" for name, count in self.labels.items()))
        told += [f"{what}: {len(found)}, {listed(found)}" for what, found in self.notices.items()]
        return told


def inspect_rows(
    rows: Sequence[Row], faults: Sequence[Fault], task: TaskConfig | None, cut: Cut | None = None
) -> Inspection:
    """Look at the rows of a data file.

    Args:
        rows: records, from `read_rows`, without those that were withdrawn.
        faults: lines that are no records.
        task: of the federation; None: what can be said without it.
        cut: whether training reads less of a record than it holds; None: nothing is cut.
    """
    total = len(rows) + len(faults)
    if task is None:
        usable, left_out = rows, faults
    else:
        found = fitting(rows, faults, task)
        usable, left_out = found.usable, found.left_out
    notices = {
        "rows with the id of an earlier row": _doubled(usable, _id),
        "rows with the content of an earlier row": _doubled(usable, lambda row: content(row.record)),
        f"rows of more than {_LONG >> 20} MiB": _long(usable),
    }
    if task is None:
        notices["rows without a field that nearly all rows have"] = _unusual(usable)
    elif cut is not None:
        notices[f"rows that are cut to task.max_length, {task.max_length} tokens"] = [
            Fault(row.line, _size(row)) for row in usable if cut(row)
        ]
    labels = _labels(usable, task)
    return Inspection(total, left_out, {what: list(some) for what, some in notices.items() if some}, labels)


def _id(row: Row) -> str | None:
    return row.record.get("id")


def _doubled(rows: Sequence[Row], key: Callable[[Row], str | None]) -> list[Fault]:
    first: dict[str, int] = {}
    found = []
    for row in rows:
        value = key(row)
        if value is None:
            continue
        if value in first:
            found.append(Fault(row.line, f"as line {first[value]}"))
        else:
            first[value] = row.line
    return found


def _long(rows: Sequence[Row]) -> list[Fault]:
    return [Fault(row.line, _size(row)) for row in rows if sum(map(len, row.record.values())) > _LONG]


def _size(row: Row) -> str:
    return f"{sum(map(len, row.record.values())):,} characters"


def _unusual(rows: Sequence[Row]) -> list[Fault]:
    counts = Counter(name for row in rows for name in row.record)
    usual = [name for name, count in counts.items() if _USUAL * len(rows) <= count < len(rows)]
    absent = [(row.line, name) for row in rows for name in usual if name not in row.record]
    return [Fault(line, f"no {json.dumps(name, ensure_ascii=False)}") for line, name in absent]


def _labels(rows: Sequence[Row], task: TaskConfig | None) -> dict[str, int]:
    if task is None or not task.traits.labels:
        return {}
    counts = Counter(row.record[task.fields["label"]] for row in rows)
    return {label: counts[label] for label in task.labels}

"""Inspect a site's data file before it takes part: count rows that are left out, cut or repeated.

The results stay at the site: lines may quote labels and ids.
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

_LONG = 1 << 20  # characters above which a row is reported as long, for any task
_USUAL = 0.9  # of the rows: a field that this share has is reported where it is absent


@dataclass(frozen=True)
class Inspection:
    """The result of inspecting a data file."""

    rows: int  # that are not empty
    left_out: Sequence[Fault]  # rows that no training uses
    notices: dict[str, Sequence[Fault]] = field(default_factory=dict)  # rows that training uses nevertheless
    labels: dict[str, int] = field(default_factory=dict)  # of the usable rows
    withdrawn: int = 0  # records, not included in the other counts

    @property
    def usable(self) -> int:
        """Rows that training draws from."""
        return self.rows - len(self.left_out)

    @property
    def share(self) -> float:
        """The share of rows left out, from 0 to 1."""
        return len(self.left_out) / self.rows if self.rows else 1.0

    def lines(self) -> list[str]:
        """Return a summary in lines: rows left out, labels, then notices, with the first few line numbers."""
        summary = []
        if self.left_out:
            summary.append(f"{len(self.left_out)} of {self.rows} rows are left out: {listed(self.left_out)}")
        if self.labels:
            summary.append("labels: " + ", ".join(f"{name} {count}" for name, count in self.labels.items()))
        summary += [f"{what}: {len(faults)}, {listed(faults)}" for what, faults in self.notices.items()]
        return summary


def inspect_rows(
    rows: Sequence[Row], faults: Sequence[Fault], task: TaskConfig | None, cut: Cut | None = None
) -> Inspection:
    """Inspect the rows of a data file.

    Args:
        rows: records, from `read_rows`, without those that were withdrawn.
        faults: lines that are not records.
        task: of the federation; None: skip the checks that need it.
        cut: whether training reads less of a record than it holds; None: nothing is cut.
    """
    total = len(rows) + len(faults)
    if task is None:
        usable, left_out = rows, faults
    else:
        records = fitting(rows, faults, task)
        usable, left_out = records.usable, records.left_out
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
    repeated = []
    for row in rows:
        value = key(row)
        if value is None:
            continue
        if value in first:
            repeated.append(Fault(row.line, f"as line {first[value]}"))
        else:
            first[value] = row.line
    return repeated


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

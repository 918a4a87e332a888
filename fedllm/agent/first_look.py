"""Inspect a site's data file for a federation's task, before the site takes part in a round."""

from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from fedllm.config import TaskConfig
from fedllm.data.inspection import Cut, Inspection, inspect_rows
from fedllm.data.minimise import needed_fields
from fedllm.data.records import write_bytes
from fedllm.data.rows import Row
from fedllm.data.site_records import CHARACTERS, not_withdrawn, site_rows

TASK = "task.json"  # in a site's home: the task of the federation file that `site init` was given


def first_look(
    data: Path, task: TaskConfig | None, base: Path | None, home: Path | None = None
) -> Inspection:
    """Inspect all records of a site's data file.

    Args:
        data: JSON lines.
        task: of the federation; None: check only what needs no task.
        base: folder of the base model, whose tokenizer finds cut records; None: estimate by length.
        home: the site's folder, which lists withdrawals; None: there are none.

    Raises:
        DataError: the file cannot be read, or holds no record.
        ModelError: the task's labels do not fit the base.
    """
    rows, faults = site_rows(data)
    withdrawn = len(rows)
    if home is not None and home.is_dir():
        rows = not_withdrawn(rows, home)
    inspection = inspect_rows(rows, faults, task, _cut(rows, task, base))
    return replace(inspection, withdrawn=withdrawn - len(rows))


def _cut(rows: list[Row], task: TaskConfig | None, base: Path | None) -> Cut | None:
    """Return a test of whether a record is cut; load the base's tokenizer only if some record is long."""
    if task is None or not task.traits.tokens:
        return None
    if base is None:
        return lambda row: sum(map(len, row.record.values())) > CHARACTERS * task.max_length
    wanted = needed_fields(task, None)
    # A token is at least one byte; a model's own format adds some.
    room = task.max_length - len(task.template.encode()) - task.traits.most_added
    long = {row.line for row in rows if sum(len(row.record.get(name, "").encode()) for name in wanted) > room}
    if not long:
        return None
    from fedllm.models.base import load_tokenizer
    from fedllm.tasks.load import wording_of

    wording = wording_of(load_tokenizer(base), task)
    _ = wording.labels  # raises if the task does not fit the base, before any record
    return lambda row: row.line in long and wording.is_cut(row.record)


def keep_task(home: Path, task: TaskConfig) -> None:
    """Store a federation's task, which is public, for later inspections of the data."""
    write_bytes(home / TASK, task.model_dump_json(indent=2).encode())


def kept_task(home: Path) -> TaskConfig | None:
    """Return the task that `keep_task` stored; None if there is no readable one."""
    try:
        return TaskConfig.model_validate_json((home / TASK).read_bytes())
    except (OSError, ValidationError):
        return None

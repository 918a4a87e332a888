"""Load a published model: resolve its base by name and fingerprint, read its inputs as records."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm.config import TaskConfig
from fedllm.errors import ModelError

if TYPE_CHECKING:
    from fedllm.tasks.task import TaskLearner


def load_plain(base_name: str, task: TaskConfig) -> "TaskLearner":
    """Load the base model alone, in evaluation mode.

    Raises:
        ModelError: there is no such base.
    """
    from fedllm.models.base import resolve_base
    from fedllm.tasks.load import load_released

    return load_released(resolve_base(base_name), None, task)


def load_adapter(base_name: str, base_sha256: str | None, adapter: Path, task: TaskConfig) -> "TaskLearner":
    """Load the base model with a plain peft adapter.

    For a task kind whose models are released whole, `adapter` holds the entire model and no base is needed.

    Args:
        base_name: a name, folder or hub id that `resolve_base` knows.
        base_sha256: fingerprint (hex) of the base in training; None accepts any.
        adapter: folder of a version's files.
        task: task that the adapter was trained for.

    Raises:
        ModelError: there is no such base, its fingerprint differs, or the adapter is unreadable.
    """
    from fedllm.models.base import resolve_base
    from fedllm.models.folder import fingerprint
    from fedllm.tasks.load import load_released

    if task.traits.whole:
        return load_released(adapter, None, task)
    folder = resolve_base(base_name)
    if base_sha256 is not None and (actual := fingerprint(folder)) != base_sha256:
        raise ModelError(
            f"the base model {base_name} here has fingerprint {actual[:12]}…, the adapter was trained on "
            f"{base_sha256[:12]}…: fetch the same revision of the base"
        )
    return load_released(folder, adapter, task)


def input_columns(task: TaskConfig) -> dict[str, str]:
    """Return the inputs of a prediction: role in the template → column of a record (`text` → `text`)."""
    if not task.traits.template:
        return {task.traits.input: task.fields[task.traits.input]}
    roles = dict.fromkeys(re.findall(r"\{(\w+)\}", task.template))
    return {role: task.fields[role] for role in roles}


def as_records(given: Any, task: TaskConfig) -> list[dict[str, str]]:  # noqa: ANN401 - see below
    """Convert the input of `predict` to records.

    Args:
        given: a DataFrame, a text, a list of texts or of mappings, or a mapping from column to a text or
            to texts. A bare text stands for the one column of a template that needs one.
        task: names the columns.

    Raises:
        ModelError: a column is missing, or texts are given where several columns are needed.
    """
    columns = list(input_columns(task).values())
    if hasattr(given, "to_dict") and hasattr(given, "columns"):  # a DataFrame
        given = given.to_dict(orient="records")
    elif isinstance(given, Mapping):
        given = _rows(given)
    elif isinstance(given, str):
        given = [given]
    return [_record(row, columns) for row in given]


def _rows(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    if all(isinstance(value, str) for value in given.values()):
        return [dict(given)]
    columns = {name: [value] if isinstance(value, str) else list(value) for name, value in given.items()}
    if len({len(values) for values in columns.values()}) > 1:
        raise ModelError(f"the columns {sorted(columns)} differ in length")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _record(row: object, columns: Sequence[str]) -> dict[str, str]:
    if isinstance(row, str):
        if len(columns) != 1:
            raise ModelError(f"this model needs the columns {list(columns)}: pass mappings or a table")
        return {columns[0]: row}
    if not isinstance(row, Mapping):
        raise ModelError(f"expected a text or a mapping with {list(columns)}, found {type(row).__name__}")
    for name in columns:
        if not isinstance(row.get(name), str):
            raise ModelError(f"the column {name!r} is missing or not text: this model needs {list(columns)}")
    return {name: row[name] for name in columns}

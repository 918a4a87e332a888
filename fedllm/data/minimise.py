"""Reduce records to the fields that a task needs; training sees no others."""

from collections.abc import Iterable

from fedllm.config import TaskConfig
from fedllm.data.records import Record

LOCAL = "id"  # kept as well: the site's own log names a record by it, and training does not use it


def needed_fields(task: TaskConfig, unit_field: str | None) -> frozenset[str]:
    """Return the fields that a task reads: those of its template, the answer, and the person's name.

    Args:
        task: from the plan.
        unit_field: the field that names a person, where people are the unit of privacy.
    """
    # Same rule as filling the template: plain replacement of each `{name}` in task.fields.
    words = task.traits.template
    keys = {key for key in task.fields if words and f"{{{key}}}" in task.template} | set(task.traits.needs)
    fields = {task.fields.get(key, key) for key in keys}
    return frozenset(fields if unit_field is None else fields | {unit_field})


def only(records: Iterable[Record], fields: frozenset[str]) -> list[dict[str, str]]:
    """Copy records with these fields and `id`, which the site's own error lines use.

    A needed field that a record lacks stays absent; its reader raises.
    """
    kept = fields | {LOCAL}
    return [{key: value for key, value in record.items() if key in kept} for record in records]

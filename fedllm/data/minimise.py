"""What of a record a task needs: nothing else reaches the training."""

from collections.abc import Iterable

from fedllm.config import TaskConfig
from fedllm.data.records import Record

LOCAL = "id"  # kept beside: lines in the site's own log name a record by it, and nothing is learned from it


def needed_fields(task: TaskConfig, unit_field: str | None) -> frozenset[str]:
    """The record's fields that a task reads: what its template names, the answer, and who a person is.

    Args:
        task: as the plan has it.
        unit_field: the field that names a person, where people are the unit of privacy.
    """
    # As the template is filled: plain replacement of whatever `{name}` task.fields knows.
    words = task.traits.template
    keys = {key for key in task.fields if words and f"{{{key}}}" in task.template} | set(task.traits.needs)
    fields = {task.fields.get(key, key) for key in keys}
    return frozenset(fields if unit_field is None else fields | {unit_field})


def only(records: Iterable[Record], fields: frozenset[str]) -> list[dict[str, str]]:
    """Copies of records without any other field but `id`, which stays for the site's own error lines.

    A needed field that a record lacks stays absent: who reads it says so.
    """
    kept = fields | {LOCAL}
    return [{key: value for key, value in record.items() if key in kept} for record in records]

"""The confidence interval of a measured quality."""

from fedllm.journal.facts import Quality


def interval(quality: Quality, group: str | None = None) -> tuple[float, float] | None:
    """Return the main metric's interval, over all records or of one group; None if it has none."""
    name = quality.main.name
    if group is None:
        value, records, answers = quality.metrics.get(name), quality.records, quality.answers
    else:
        value, records, answers = quality.metrics.get(f"{name}/{group}"), quality.by_group.get(group, 0), None
    return None if value is None else quality.main.interval(value, records, answers)

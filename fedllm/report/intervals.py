"""How sure a measured accuracy is."""

from fedllm.journal.facts import Quality
from fedllm.training.intervals import wilson


def interval(quality: Quality, group: str | None = None) -> tuple[float, float] | None:
    """The interval of an accuracy, over all records or of one group; None where there is none to tell."""
    name = "accuracy" if group is None else f"accuracy/{group}"
    records = quality.records if group is None else quality.by_group.get(group, 0)
    if name not in quality.metrics or records == 0:
        return None
    return wilson(round(quality.metrics[name] * records), records)

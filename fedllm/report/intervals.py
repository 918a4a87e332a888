"""How sure a measured accuracy is."""

from functools import cache

from fedllm.report.facts import Quality


@cache
def wilson(right: int, records: int) -> tuple[float, float]:
    """Where a share lies with 95 % confidence (Wilson 1927), both ends between 0 and 1."""
    from scipy.stats import binomtest

    low, high = binomtest(right, records).proportion_ci(method="wilson")
    return float(low), float(high)


def interval(quality: Quality, group: str | None = None) -> tuple[float, float] | None:
    """The interval of an accuracy, over all records or of one group; None where there is none to tell."""
    name = "accuracy" if group is None else f"accuracy/{group}"
    records = quality.records if group is None else quality.by_group.get(group, 0)
    if name not in quality.metrics or records == 0:
        return None
    return wilson(round(quality.metrics[name] * records), records)

"""The parts of a card: tables whose cells cannot break them."""

import re
from collections.abc import Iterable, Mapping

from fedllm.tasks.metrics import METRICS, main_metric, metric_named, shown

ROWS = 20  # groups and sites that fit a screen

# What begins or ends markup within a line, and what GitHub's dialect makes a link of by itself.
_MARKUP = re.compile(r"[\\`*_\[\]<|&~@]|:(?=//)|(?<=\bwww)\.", flags=re.IGNORECASE)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of cells that are fit to be shown."""
    names = list(head)
    return "\n".join([line(names), line(["---"] * len(names)), *[line(cells) for cells in rows]])


def by_importance(metrics: Mapping[str, float], chosen: str | None = None) -> list[str]:
    """Totals first, then the groups, in each the metric that counts first; a single group is the total.

    Args:
        metrics: by name and as name/{group}.
        chosen: the metric that counts; None: the task's own.
    """
    main = main_metric(metrics, chosen)
    groups = {name.partition("/")[2] for name in metrics} - {""}
    kept = [name for name in metrics if groups != {"all"} or "/" not in name]
    return sorted(kept, key=lambda name: ("/" in name, metric_named(name) is not main, name))


def line(cells: Iterable[str]) -> str:
    """A row of a table."""
    return "| " + " | ".join(cells) + " |"


def cell(text: str, most: int | None = None) -> str:
    """A cell that cannot break the table or become markup, of at most so many characters to be read."""
    words = " ".join(text.split())
    if most is not None and len(words) > most:
        words = f"{words[: most - 1]}…"
    return _MARKUP.sub(r"\\\g<0>", words)


def plain(value: object) -> str:
    """A value of a table; four digits are enough."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def metric(name: str) -> str:
    """A metric's name in a cell, with its unit where a percentage does not say it."""
    found = METRICS.get(name)
    return f"{cell(name)} ({found.unit})" if found and found.unit else cell(name)


def number(name: str, value: float | None) -> str:
    """A value by its metric's name: a share as %, another as it is."""
    return "-" if value is None else shown(name, value)

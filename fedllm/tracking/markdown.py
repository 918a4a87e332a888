"""Markdown of a card: tables with escaped cells."""

import re
from collections.abc import Iterable, Mapping

from fedllm.tasks.metrics import METRICS, main_metric, metric_named, shown

ROWS = 20  # groups or sites that fit on a screen

# Characters that begin or end inline markup, and those that GitHub's dialect turns into links.
_MARKUP = re.compile(r"[\\`*_\[\]<|&~@]|:(?=//)|(?<=\bwww)\.", flags=re.IGNORECASE)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of cells that are already escaped."""
    names = list(head)
    return "\n".join([line(names), line(["---"] * len(names)), *[line(cells) for cells in rows]])


def by_importance(metrics: Mapping[str, float], chosen: str | None = None) -> list[str]:
    """Sort metric names: totals, then groups, the main metric first in each; drop a lone group `all`.

    Args:
        metrics: by name and as name/{group}.
        chosen: the main metric; None: the task's own.
    """
    main = main_metric(metrics, chosen)
    groups = {name.partition("/")[2] for name in metrics} - {""}
    kept = [name for name in metrics if groups != {"all"} or "/" not in name]
    return sorted(kept, key=lambda name: ("/" in name, metric_named(name) is not main, name))


def line(cells: Iterable[str]) -> str:
    """Return a row of a table."""
    return "| " + " | ".join(cells) + " |"


def cell(text: str, most: int | None = None) -> str:
    """Return a cell with markup escaped, cut to at most `most` characters before escaping."""
    words = " ".join(text.split())
    if most is not None and len(words) > most:
        words = f"{words[: most - 1]}…"
    return _MARKUP.sub(r"\\\g<0>", words)


def plain(value: object) -> str:
    """Format a value of a table, floats with four significant digits."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def metric(name: str) -> str:
    """Return a metric's name as a cell, with its unit if it has one."""
    known = METRICS.get(name)
    return f"{cell(name)} ({known.unit})" if known and known.unit else cell(name)


def number(name: str, value: float | None) -> str:
    """Format a value by its metric's name: a share in %, another as a number."""
    return "-" if value is None else shown(name, value)

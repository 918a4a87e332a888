"""The parts of a card: tables whose cells cannot break them."""

import re
from collections.abc import Iterable, Mapping

HIGH = "accuracy"  # higher is better; loss is lower
ROWS = 20  # groups and sites that fit a screen

# What begins or ends markup within a line, and what GitHub's dialect makes a link of by itself.
_MARKUP = re.compile(r"[\\`*_\[\]<|&~@]|:(?=//)|(?<=\bwww)\.", flags=re.IGNORECASE)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of cells that are fit to be shown."""
    names = list(head)
    return "\n".join([line(names), line(["---"] * len(names)), *[line(cells) for cells in rows]])


def by_importance(metrics: Mapping[str, float]) -> list[str]:
    """Totals first, then accuracy by group, then the rest; a single group is the total."""
    groups = {name.partition("/")[2] for name in metrics} - {""}
    kept = [name for name in metrics if groups != {"all"} or "/" not in name]
    return sorted(kept, key=lambda name: ("/" in name, not name.startswith(HIGH), name))


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
    return f"{cell(name)} (nats a token of the answer)" if name == "loss" else cell(name)


def number(name: str, value: float | None) -> str:
    """A metric: accuracy as %, loss as it is."""
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if name.startswith(HIGH) else f"{value:.4f}"

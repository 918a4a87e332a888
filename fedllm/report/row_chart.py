"""Compute the geometry of a chart of rows on one scale; a template draws it as SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedllm.report.scale import WIDTH, Tick, round_ticks, tick_text

ROW = 40.0  # height
MOST_ROWS = 24  # in a chart; the table below it has all rows


@dataclass(frozen=True)
class Row:
    """One row: a value, its interval, and the values to compare it with."""

    name: str
    text: str
    at: float
    low: float | None
    high: float | None
    marks: tuple[tuple[str, float], ...]  # kind and position


@dataclass(frozen=True)
class RowChart:
    """Values on one scale, one per row."""

    key: str
    title: str
    summary: str
    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]
    bars: bool  # draw bars from 0; otherwise dots
    width: float = WIDTH

    @property
    def height(self) -> float:
        """Return the height of all rows and the axis."""
        return len(self.rows) * ROW + (0 if self.bars else 22)


@dataclass(frozen=True)
class Value:
    """The value of one row, before it has a position."""

    name: str
    value: float
    text: str
    interval: tuple[float, float] | None = None
    marks: Mapping[str, float] | None = None  # other values on the same scale, by kind


def row_chart(
    key: str, title: str, values: Sequence[Value], *, bars: bool = False, most: float | None = None
) -> RowChart | None:
    """Return rows on one scale; None if no value is finite.

    Args:
        key: unique on the page.
        title: the caption.
        values: from top to bottom; those after the first `MOST_ROWS` are left out.
        bars: draw bars from 0; otherwise values are shares between 0 and 1, drawn as dots.
        most: end of the scale of bars; default: the largest value.
    """
    values = [row for row in values if math.isfinite(row.value)][:MOST_ROWS]
    if not values:
        return None
    seen = [n for row in values for n in (row.value, *(row.interval or ()), *(row.marks or {}).values())]
    if bars:
        ticks, low, high = [], 0.0, most or max(seen) or 1.0
    else:
        ticks = round_ticks(min(seen), max(seen))
        low, high = ticks[0], ticks[-1]

    def x(value: float) -> float:
        return 8 + (WIDTH - 16) * min(1.0, max(0.0, (value - low) / (high - low)))

    return RowChart(
        key=key,
        title=title,
        summary="; ".join(f"{row.name}: {row.text}" for row in values),
        rows=tuple(
            Row(
                row.name if len(row.name) <= 34 else row.name[:33] + "…",  # noqa: PLR2004 - what fits a row
                row.text,
                x(row.value),
                x(row.interval[0]) if row.interval else None,
                x(row.interval[1]) if row.interval else None,
                tuple((kind, x(value)) for kind, value in (row.marks or {}).items()),
            )
            for row in values
        ),
        ticks=tuple(Tick(x(value), tick_text(value, ticks, percent=True)) for value in ticks),
        bars=bars,
    )

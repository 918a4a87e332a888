"""A chart of rows on one scale, as geometry: a template draws it as SVG in colours of the theme."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedllm.report.scale import WIDTH, Tick, round_ticks, tick_text

ROW = 40.0  # height
MOST_ROWS = 24  # in a chart; the table below has all


@dataclass(frozen=True)
class Row:
    """One line of a chart of rows: a value, its interval, and what it is compared with."""

    name: str
    text: str
    at: float
    low: float | None
    high: float | None
    marks: tuple[tuple[str, float], ...]  # kind and place


@dataclass(frozen=True)
class RowChart:
    """Values side by side, a row each, on one scale."""

    key: str
    title: str
    summary: str
    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]
    bars: bool  # from 0, as bars; otherwise as dots
    width: float = WIDTH

    @property
    def height(self) -> float:
        """Of all rows and the axis."""
        return len(self.rows) * ROW + (0 if self.bars else 22)


@dataclass(frozen=True)
class Value:
    """What a row shows."""

    name: str
    value: float
    text: str
    interval: tuple[float, float] | None = None
    marks: Mapping[str, float] | None = None  # other values on the same scale, by kind


def row_chart(
    key: str, title: str, values: Sequence[Value], *, bars: bool = False, most: float | None = None
) -> RowChart | None:
    """Rows on one scale; None where there is nothing to draw.

    Args:
        key: unique on the page.
        title: what is shown.
        values: from above to below; those beyond `MOST_ROWS` are left to a table.
        bars: draw bars from 0; otherwise values are shares between 0 and 1, drawn as dots.
        most: end of the scale of bars; the largest value if it is not said.
    """
    values = [one for one in values if math.isfinite(one.value)][:MOST_ROWS]
    if not values:
        return None
    seen = [e for one in values for e in (one.value, *(one.interval or ()), *(one.marks or {}).values())]
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
        summary="; ".join(f"{one.name}: {one.text}" for one in values),
        rows=tuple(
            Row(
                one.name if len(one.name) <= 34 else one.name[:33] + "…",  # noqa: PLR2004 - what fits a row
                one.text,
                x(one.value),
                x(one.interval[0]) if one.interval else None,
                x(one.interval[1]) if one.interval else None,
                tuple((kind, x(value)) for kind, value in (one.marks or {}).items()),
            )
            for one in values
        ),
        ticks=tuple(Tick(x(value), tick_text(value, ticks, percent=True)) for value in ticks),
        bars=bars,
    )

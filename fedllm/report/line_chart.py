"""Compute the geometry of a line chart over the rounds; a template draws it as SVG."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from fedllm.report.scale import WIDTH, Tick, round_ticks, shown, tick_text

HEIGHT = 210.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 14.0, 30.0  # margins
MOST_TICKS = 6


@dataclass(frozen=True)
class Dot:
    """A measured point, with its interval if it has one."""

    x: float
    y: float
    low: float | None
    high: float | None
    text: str  # of the tooltip


@dataclass(frozen=True)
class Level:
    """A horizontal line to compare with."""

    y: float
    text_y: float  # of its name; names never overlap
    text: str
    kind: str  # zero-shot, champion, budget


@dataclass(frozen=True)
class LineChart:
    """A chart of one line over the rounds."""

    key: str  # prefix of its ids in the page
    title: str
    summary: str  # for screen readers
    dots: tuple[Dot, ...]
    levels: tuple[Level, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    width: float = WIDTH
    height: float = HEIGHT

    @property
    def path(self) -> str:
        """Return the line as an SVG path."""
        return "M" + " L".join(f"{dot.x:.1f} {dot.y:.1f}" for dot in self.dots)

    @property
    def band(self) -> str:
        """Return the area between all intervals as an SVG path; empty if a point has no interval."""
        sides = [(dot.x, dot.low, dot.high) for dot in self.dots if dot.low is not None]
        if len(sides) < len(self.dots) or len(sides) < 2:  # noqa: PLR2004 - an area has two sides
            return ""
        up = " L".join(f"{x:.1f} {high:.1f}" for x, _, high in sides)
        down = " L".join(f"{x:.1f} {low:.1f}" for x, low, _ in reversed(sides))
        return f"M{up} L{down} Z"


@dataclass(frozen=True)
class Point:
    """The value of a round."""

    round: int
    value: float
    interval: tuple[float, float] | None = None


def line_chart(  # noqa: PLR0913 - the parts of a chart, each named by the caller
    key: str,
    title: str,
    points: Sequence[Point],
    *,
    levels: Mapping[str, tuple[str, float]] | None = None,
    percent: bool = False,
    from_zero: bool = False,
    form: Callable[[float], str] | None = None,
) -> LineChart | None:
    """Return a line over the rounds; None if no point is finite.

    Args:
        key: unique on the page.
        title: the caption.
        points: in order of the rounds.
        levels: name and value of each horizontal line to compare with, by its kind.
        percent: show values, which are shares, as percentages.
        from_zero: start the axis at 0.
        form: formats a value for people; default: rounded to the nearest.
    """
    written = form or partial(shown, percent=percent)
    points = [point for point in points if math.isfinite(point.value)]
    if not points:
        return None
    compared = {k: v for k, v in (levels or {}).items() if math.isfinite(v[1])}
    seen = [point.value for point in points] + [value for _, value in compared.values()]
    seen += [edge for point in points for edge in point.interval or ()]
    ticks = round_ticks(0.0 if from_zero else min(seen), max(seen))
    low, high = ticks[0], ticks[-1]
    first, last = points[0].round, max(points[-1].round, points[0].round + 1)

    def x(number: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (number - first) / (last - first)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    def dot(point: Point) -> Dot:
        edges = point.interval
        text = f"{'zero-shot' if point.round == 0 else f'round {point.round}'}: {written(point.value)}"
        if edges:
            text += f", 95 % interval {written(edges[0])} to {written(edges[1])}"
        return Dot(
            x(point.round),
            y(point.value),
            y(edges[0]) if edges else None,
            y(edges[1]) if edges else None,
            text,
        )

    dots = tuple(dot(point) for point in points)
    lines = [(kind, name, value) for kind, (name, value) in compared.items()]
    return LineChart(
        key=key,
        title=title,
        summary="; ".join([*(d.text for d in dots[-8:]), *(f"{n}: {written(v)}" for _, n, v in lines)]),
        dots=dots,
        levels=_apart([(kind, f"{name} {written(value)}", y(value)) for kind, name, value in lines]),
        x_ticks=tuple(Tick(x(n), str(n)) for n in _whole_ticks(first, points[-1].round)),
        y_ticks=tuple(Tick(y(value), tick_text(value, ticks, percent=percent)) for value in ticks),
    )


def _whole_ticks(first: int, last: int) -> list[int]:
    least = max(1.0, (last - first) / MOST_TICKS)
    power = 10 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)
    return [number for number in range(first, last + 1) if number % step == 0 or last - first < MOST_TICKS]


def _apart(levels: Sequence[tuple[str, str, float]]) -> tuple[Level, ...]:
    """Place the names of the levels at least 12 units apart, so that they can be read.

    A training is mostly above zero-shot, so the name of zero-shot is below its line; others are above.
    """
    placed: list[Level] = []
    lowest = HEIGHT - BOTTOM - 4
    for kind, text, y in sorted(levels, key=lambda level: -level[2]):
        wanted = y + 13 if kind == "zero-shot" else y - 4
        text_y = max(min(wanted, lowest), TOP)
        lowest = text_y - 12
        placed.append(Level(y, text_y, text, kind))
    return tuple(placed)

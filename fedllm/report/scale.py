"""The scale of a chart: round numbers for its ticks. All lengths are in units of the drawing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 380.0  # of every drawing: about as wide as a phone, so that its text stays readable there


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


def shown(value: float, percent: bool) -> str:
    """Return a value as text for people."""
    if percent:
        return f"{100 * value:.1f} %"
    return f"{value:.4g}"


def round_ticks(low: float, high: float) -> list[float]:
    """Return four to seven round numbers that span `low` to `high`."""
    span = (high - low) or abs(high) or 1.0
    raw = span / 4
    unit = 10 ** math.floor(math.log10(raw))
    step = next(f * unit for f in (1, 2, 2.5, 5, 10) if f * unit >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, max(last, first + 1) + 1)]


def tick_text(value: float, ticks: Sequence[float], *, percent: bool) -> str:
    """Return a tick's number with as many digits as needed to tell it from the next tick."""
    step = (ticks[1] - ticks[0]) * (100 if percent else 1)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    digits += round(step * 10**digits, 9) != round(step * 10**digits)  # such as 2.5
    return f"{value * (100 if percent else 1):.{digits}f}" + (" %" if percent else "")

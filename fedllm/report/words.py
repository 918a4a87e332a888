"""Format numbers and times for people."""

import time

from fedllm.protocol.terms import rounded_up
from fedllm.tasks.metric import Metric

ABSENT = "\N{EN DASH}"


def metric(of: Metric, value: float | None) -> str:
    """Return a metric's value: a share as a percentage, any other as a number."""
    return ABSENT if value is None else of.shown(value)


def span(of: Metric, edges: tuple[float, float] | None) -> str:
    """Return a metric's interval without percent signs; empty if there is none."""
    return "\N{EN DASH}".join(of.shown(edge).removesuffix(" %") for edge in edges) if edges else ""


def epsilon(value: float | None) -> str:
    """Return epsilon rounded up, as it is an upper bound; without a ledger `not observable`, never 0."""
    return "not observable" if value is None else rounded_up(value)


def size(count: int) -> str:
    """Return a number of bytes in decimal units."""
    number = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:  # noqa: PLR2004 - the next unit
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"  # noqa: PLR2004 - three digits
        number /= 1000
    return f"{number:.1f} TB"


def seconds(value: float | None) -> str:
    """Return a duration."""
    if value is None:
        return ABSENT
    if value < 1:
        return f"{1000 * value:.0f} ms"
    if value < 100:  # noqa: PLR2004 - below, tenths matter
        return f"{value:.1f} s"
    if value < 3600:  # noqa: PLR2004 - an hour
        return f"{value // 60:.0f} min {value % 60:.0f} s"
    return f"{value // 3600:.0f} h {value % 3600 // 60:.0f} min"


def moment(at: float | None) -> str:
    """Return a time in UTC."""
    return ABSENT if at is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))


def day(at: float) -> str:
    """Return a day in UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime(at))


def plural(count: int, word: str) -> str:
    """Return `1 round`, `2 rounds`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"

"""Numbers and moments as people read them."""

import time

from fedllm.protocol.terms import rounded_up

ABSENT = "\N{EN DASH}"


def share(value: float | None) -> str:
    """A share as a percentage."""
    return ABSENT if value is None else f"{100 * value:.1f} %"


def span(edges: tuple[float, float] | None) -> str:
    """An interval of shares, without the sign; empty where there is none."""
    return f"{100 * edges[0]:.1f}\N{EN DASH}{100 * edges[1]:.1f}" if edges else ""


def metric(name: str, value: float | None) -> str:
    """A metric by its name: accuracy as a percentage, loss as a number."""
    if name.startswith("accuracy"):
        return share(value)
    return ABSENT if value is None else f"{value:.4f}"


def epsilon(value: float | None) -> str:
    """An upper bound, so rounded up; what no ledger shows is not observable, never 0."""
    return "not observable" if value is None else rounded_up(value)


def size(count: int) -> str:
    """Bytes in decimal units."""
    told = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if told < 1000:  # noqa: PLR2004 - the next unit
            return f"{told:.0f} {unit}" if unit == "B" or told >= 100 else f"{told:.1f} {unit}"  # noqa: PLR2004 - three digits
        told /= 1000
    return f"{told:.1f} TB"


def seconds(value: float | None) -> str:
    """A duration."""
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
    """A time, in UTC."""
    return ABSENT if at is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))


def day(at: float) -> str:
    """A day, in UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime(at))


def plural(count: int, word: str) -> str:
    """`1 round`, `2 rounds`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"

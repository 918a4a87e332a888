"""Gaussians rounded to whole numbers, with the very law that rounding an ideal Gaussian has.

Box and Muller (1958) turn two uniform numbers into two Gaussians; here both uniforms have endless digits, of
which only as many are drawn as are needed to know what the Gaussian rounds to. Nearly always 64 bits and
float64 are enough, and their error is bounded with room to spare; where it could matter the number is
computed again in interval arithmetic, with more bits of the same uniforms, until it is decided. So no draw is
impossible that an ideal Gaussian could give, however far out, and none is likelier or rarer than its law
says: the total variation distance is zero, as long as the bits are random.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

Words: TypeAlias = np.ndarray[Any, np.dtype[np.uint64]]
Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Whole: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Drawn = Callable[[int], Words]

LARGEST = 2.0**40  # of `scale`: beyond it the error of float64 would decide too seldom

_BLOCK = 1 << 13  # pairs at once: what they need fits into a processor's cache
_WORD = 64  # bits
# Relative error that numpy's log, sqrt, cos and sin are trusted with: 64 units in the last place. Their
# makers promise 4; tests/privacy/test_rounded_gaussian.py looks.
TRUSTED = 2.0**-46
_LEAST_WORD = 1 << 45  # below it a word says too little of its uniform's logarithm
_LEAST_RADIUS = 2.0**-8


def rounded_gaussians(count: int, scale: float, words: Drawn) -> Whole:
    """Draw independent numbers round(scale · Z), Z a standard Gaussian.

    Args:
        count: of them.
        scale: the Gaussian's standard deviation in units of the grid, from 0 to 2^40.
        words: draws so many random 64-bit words.

    Returns:
        int64, (count,).
    """
    if not 0 <= scale <= LARGEST:
        raise ValueError(f"a scale of {scale} is not between 0 and 2^40")
    drawn = np.empty(count + count % 2, dtype=np.int64)
    pairs = len(drawn) // 2
    for start in range(0, pairs, _BLOCK):
        end = min(start + _BLOCK, pairs)
        drawn[2 * start : 2 * end] = _block(end - start, scale, words)
    return drawn[:count]


def _block(pairs: int, scale: float, words: Drawn) -> Whole:
    first, second = words(pairs), words(pairs)
    with np.errstate(divide="ignore", invalid="ignore"):  # the word 0 is settled below
        radius = np.sqrt(-2.0 * np.log(first * 2.0**-_WORD))
        angle = second * (2.0 * math.pi * 2.0**-_WORD)
        exact = np.stack([radius * np.cos(angle), radius * np.sin(angle)]) * scale  # (2, pairs)
        whole = np.rint(exact)
        open_ = np.abs(exact - whole) > 0.5 - error(radius, scale)
        undecided = open_.any(0) | (first < _LEAST_WORD) | ~(radius >= _LEAST_RADIUS)
        found = whole.astype(np.int64)
    for pair in np.flatnonzero(undecided):
        found[:, pair] = settle(int(first[pair]), int(second[pair]), scale, words)
    return found.ravel()


def error(radius: Floats, scale: float) -> Floats:
    """How far float64's scale · Z may be from that of the endless uniforms: four times the sum below.

    With L = -2 ln u = radius²: what a word of at least 2^45 does not say of u moves L by 2^-44 at most, its
    conversion by 2^-52, and log errs by `TRUSTED` · L; half of that over the radius is the radius' error.
    Cosine and sine err by `TRUSTED` and by what the angle does, 2^-49, times the radius.
    """
    return scale * (2.0**-43 / radius + (1.0 + radius) * 2.0**-43)


def settle(first: int, second: int, scale: float, words: Drawn) -> tuple[int, int]:
    """Decide a pair in interval arithmetic, with as many further bits of both uniforms as it takes.

    Args:
        first: the leading 64 bits of the uniform that makes the radius.
        second: those of the uniform that makes the angle.
        scale: as of `rounded_gaussians`.
        words: draws further ones.
    """
    from mpmath.ctx_iv import MPIntervalContext

    interval = MPIntervalContext()
    bits = _WORD
    while True:
        interval.prec = 2 * bits + _WORD
        parts = interval.mpf(2) ** bits
        squared = -2 * interval.log(interval.mpf([max(first, 1), first + 1]) / parts)
        radius = interval.sqrt(interval.mpf([max(squared.a, 0), squared.b]))
        angle = 2 * interval.pi * interval.mpf([second, second + 1]) / parts
        ends = [_ends(scale * radius * part) for part in (interval.cos(angle), interval.sin(angle))]
        if first and all(low == high for low, high in ends):
            return ends[0][0], ends[1][0]
        first, second = ((number << _WORD) | int(words(1)[0]) for number in (first, second))
        bits += _WORD


def _ends(number: Any) -> tuple[int, int]:  # noqa: ANN401 - mpmath is untyped
    """What the ends of an interval round to."""
    from mpmath import floor, mpf, workprec

    with workprec(4096):  # the ends are taken as they are
        low, high = (int(floor(mpf(end) + 0.5)) for end in (number.a.mid, number.b.mid))
    return low, high

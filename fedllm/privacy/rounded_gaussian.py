"""Draw Gaussians rounded to whole numbers, with exactly the distribution of a rounded ideal Gaussian.

Box and Muller (1958) turn two uniform numbers into two Gaussians. Here both uniforms have endless digits, and
only as many are drawn as decide what the Gaussian rounds to. Nearly always 64 bits and float64 suffice, and
their error bound has a margin. Where the error could matter, the number is computed again in interval
arithmetic with more bits of the same uniforms, until it is decided. So every value of an ideal Gaussian can
occur, however far out, with exactly its probability: if the bits are random, the total variation distance is
zero.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

Words: TypeAlias = np.ndarray[Any, np.dtype[np.uint64]]
Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Whole: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Drawn = Callable[[int], Words]

LARGEST = 2.0**40  # of `scale`: beyond it float64 would leave too many draws undecided

_BLOCK = 1 << 13  # pairs at once: their arrays fit into a processor's cache
_WORD = 64  # bits
# Assumed bound of the relative error of numpy's log, sqrt, cos and sin: 64 units in the last place. Numpy
# promises 4; tests/privacy/test_rounded_gaussian.py checks it.
TRUSTED = 2.0**-46
_LEAST_WORD = 1 << 45  # a smaller word determines its uniform's logarithm too coarsely
_LEAST_RADIUS = 2.0**-8


def rounded_gaussians(count: int, scale: float, words: Drawn) -> Whole:
    """Draw independent numbers round(scale · Z), Z a standard Gaussian.

    Args:
        count: how many.
        scale: the Gaussian's standard deviation in grid steps, from 0 to 2^40.
        words: draws a given number of random 64-bit words.

    Returns:
        int64, (count,).

    Raises:
        ValueError: `scale` is out of range.
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
        rounded = np.rint(exact)
        near_tie = np.abs(exact - rounded) > 0.5 - error(radius, scale)
        undecided = near_tie.any(0) | (first < _LEAST_WORD) | ~(radius >= _LEAST_RADIUS)
        drawn = rounded.astype(np.int64)
    for pair in np.flatnonzero(undecided):
        drawn[:, pair] = settle(int(first[pair]), int(second[pair]), scale, words)
    return drawn.ravel()


def error(radius: Floats, scale: float) -> Floats:
    """Return a bound of the error of float64's scale · Z against the endless uniforms': four times the sum.

    With L = -2 ln u = radius²: the bits of u beyond a word of at least 2^45 change L by at most 2^-44, the
    word's conversion by 2^-52, and log errs by `TRUSTED` · L; half their sum over the radius is the radius'
    error. Cosine and sine err by `TRUSTED` and by the angle's error, 2^-49, times the radius.
    """
    return scale * (2.0**-43 / radius + (1.0 + radius) * 2.0**-43)


def settle(first: int, second: int, scale: float, words: Drawn) -> tuple[int, int]:
    """Round a pair in interval arithmetic, drawing further bits of both uniforms until it is decided.

    Args:
        first: the leading 64 bits of the radius' uniform.
        second: the leading 64 bits of the angle's uniform.
        scale: see `rounded_gaussians`.
        words: draws further 64-bit words.

    Returns:
        Both rounded numbers.
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
    """Return the whole numbers that an interval's ends round to."""
    from mpmath import floor, mpf, workprec

    with workprec(4096):  # enough to keep the ends exact
        low, high = (int(floor(mpf(end) + 0.5)) for end in (number.a.mid, number.b.mid))
    return low, high

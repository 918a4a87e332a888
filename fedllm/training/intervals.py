"""95 % intervals for a model's result on the public set, and for the difference of two models."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """A difference of two means and its interval; above 0 the first model is better."""

    value: float
    low: float
    high: float


@cache
def wilson(right: int, records: int) -> tuple[float, float]:
    """Return the interval of a share, both ends between 0 and 1 (Wilson 1927, JASA 22:209-212).

    >>> low, high = wilson(56, 70)
    >>> f"{low:.4f} {high:.4f}"
    '0.6918 0.8770'
    """
    from scipy.stats import binomtest

    low, high = binomtest(right, records).proportion_ci(CONFIDENCE, method="wilson")
    return float(low), float(high)


def unpaired(right: int, records: int, other_right: int, other_records: int) -> Difference:
    """Return the difference of two independent shares, p1 - p2.

    Newcombe 1998, Statistics in Medicine 17:873-890, method 10: root of the sum of squares of each
    share's distances to its Wilson bounds.

    >>> d = unpaired(56, 70, 48, 80)
    >>> f"{d.low:.4f} {d.high:.4f}"
    '0.0524 0.3339'
    """
    p, q = right / records, other_right / other_records
    (l1, u1), (l2, u2) = wilson(right, records), wilson(other_right, other_records)
    low = p - q - math.hypot(p - l1, u2 - q)
    high = p - q + math.hypot(u1 - p, q - l2)
    return Difference(p - q, low, high)


@dataclass(frozen=True)
class Pairs:
    """Counts of records on which both models, one alone, or neither was right."""

    both: int
    first: int  # the first model alone
    second: int  # the second model alone
    none: int

    @property
    def records(self) -> int:
        """The number of records."""
        return self.both + self.first + self.second + self.none


def count_pairs(first: Sequence[bool], second: Sequence[bool]) -> Pairs:
    """Count how often both models, one alone, or neither was right on the same records."""
    outcomes = [(a, b) for a, b in zip(first, second, strict=True)]
    return Pairs(
        *(outcomes.count(outcome) for outcome in ((True, True), (True, False), (False, True), (False, False)))
    )


def paired(pairs: Pairs) -> Difference:
    """Return the difference of two shares on the same records.

    Newcombe 1998, Statistics in Medicine 17:2635-2650, method 10: as `unpaired`, less the correlation of the
    two models, with phi corrected for continuity.

    >>> d = paired(Pairs(59, 6, 16, 80))
    >>> f"{d.value:.4f} {d.low:.4f} {d.high:.4f}"
    '-0.0621 -0.1186 -0.0046'
    """
    n = pairs.records
    first, second = pairs.both + pairs.first, pairs.both + pairs.second
    p, q = first / n, second / n
    (l1, u1), (l2, u2) = wilson(first, n), wilson(second, n)
    phi = _phi(pairs, first, second)
    below, above = (p - l1, u2 - q), (u1 - p, q - l2)
    value = (pairs.first - pairs.second) / n
    return Difference(value, value - _reach(phi, *below), value + _reach(phi, *above))


def mcnemar(pairs: Pairs) -> float:
    """Return the two-sided p of the exact test that each model alone is right equally often (McNemar 1947).

    >>> mcnemar(Pairs(1, 1, 7, 12))
    0.0703125
    """
    from scipy.stats import binomtest

    discordant = pairs.first + pairs.second
    return float(binomtest(pairs.first, discordant).pvalue) if discordant else 1.0


def paired_mean(differences: Sequence[float]) -> Difference:
    """Return the mean of paired differences with Student's interval, which is infinite for one record."""
    from scipy.stats import t

    n = len(differences)
    mean = math.fsum(differences) / n
    if n == 1:
        return Difference(mean, -math.inf, math.inf)
    error = math.sqrt(math.fsum((d - mean) ** 2 for d in differences) / (n - 1) / n)
    reach = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    return Difference(mean, mean - reach, mean + reach)


def _phi(pairs: Pairs, first: int, second: int) -> float:
    n = pairs.records
    product = first * (n - first) * second * (n - second)
    if not product:
        return 0.0
    cross = float(pairs.both * pairs.none - pairs.first * pairs.second)
    if cross > 0:
        cross = max(cross - n / 2, 0.0)
    return cross / math.sqrt(product)


def _reach(phi: float, one: float, other: float) -> float:
    """Return the hypotenuse of two distances less their correlation; rounding may give a square below 0."""
    return math.sqrt(max(0.0, one**2 + other**2 - 2 * phi * one * other))

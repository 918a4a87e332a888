"""Compute epsilon by composing privacy events, and the noise multiplier that meets a budget.

The mechanism is the Poisson-sampled Gaussian; neighbours differ by one unit added or removed. Epsilon comes
from the privacy loss distribution (Koskela, Jälkö & Honkela 2020, arXiv 1906.03049), discretised
pessimistically (Doroshenko et al. 2022, arXiv 2207.04380), so every epsilon is an upper bound. Epsilons are
never added up.

    >>> round(epsilon([Event(0.01, 1.0, 1000)], 1e-5), 3)
    1.828
    >>> round(epsilon([Event(1.0, 5.0, 50)], 1e-3), 3)
    4.845
    >>> noise_multiplier(3.0, 1e-5, 0.1, 200)
    2.179
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from fedllm.errors import ConfigError

ACCOUNTANT = "dp-accounting PLD, add/remove"

# The whole orders of dp-accounting: at some fractional ones the series for a sampled Gaussian diverges.
ORDERS = (*range(2, 64), 128, 256, 512, 1024)
GRID = 2000  # the first grid's interval is the Rényi bound divided by this
FINER = 4  # each refinement divides the interval by this ...
SETTLED = 1e-3  # ... until epsilon changes by a smaller share; the remaining error is a tenth of it
COARSEST = 0.25  # largest interval, in units of loss: a coarser grid says nothing
MEANINGLESS = 1e4  # above this epsilon the Rényi bound is returned: both say "no privacy"
LEAST_NOISE, MOST_NOISE = 0.1, 1e6  # search range of `noise_multiplier`


@dataclass(frozen=True)
class Event:
    """Steps of one Poisson-sampled Gaussian mechanism; a rate of 1 takes every unit in every step."""

    sampling_rate: float  # q
    noise_multiplier: float  # sigma, in units of the sensitivity to one unit
    steps: int

    def __post_init__(self) -> None:
        if not 0 <= self.sampling_rate <= 1:
            raise ConfigError(f"a sampling rate of {self.sampling_rate} is no probability")
        if not (0 <= self.noise_multiplier < math.inf and self.steps >= 0):
            raise ConfigError("noise multiplier and steps must be finite and not negative")


def epsilon(events: Iterable[Event], delta: float) -> float:
    """Return the epsilon at `delta` of all events together, by PLD.

    The result exceeds the exact value by about 1e-4 of it at most. It holds if all noise multipliers were
    fixed before the first event.

    Returns:
        0.0 without steps; infinity if a step had no noise.
    """
    return _epsilon(_merged(events), delta)


@cache
def noise_multiplier(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """Return the smallest sigma, to 4 significant digits, that keeps the steps within epsilon.

    The result is at least 0.1: less noise protects nobody.

    Raises:
        ConfigError: No sigma below a million is enough for this delta and these steps.
    """

    def spent(sigma: float) -> float:
        return _epsilon(((sampling_rate, sigma, steps),), delta)

    def excess(log_sigma: float) -> float:
        return math.log(max(spent(math.exp(log_sigma)), 1e-300) / epsilon)

    if spent(LEAST_NOISE) <= epsilon:
        return LEAST_NOISE
    low = high = 1.0
    while spent(high) > epsilon:
        low, high = high, 4 * high
        if high > MOST_NOISE:
            raise ConfigError(
                f"no noise keeps {steps} steps at sampling rate {sampling_rate:g} within epsilon {epsilon:g} "
                f"at delta {delta:g}: raise privacy.epsilon, or take fewer steps or a smaller sampling_rate"
            )
    while low > LEAST_NOISE and spent(low) <= epsilon:
        low, high = max(low / 2, LEAST_NOISE), low
    # Epsilon is nearly a power of sigma, so the root search needs few steps on a logarithmic scale.
    from scipy.optimize import brentq

    sigma = math.exp(brentq(excess, math.log(low), math.log(high), xtol=2e-5))
    digit = math.floor(math.log10(sigma)) - 3
    units = math.ceil(sigma / 10.0**digit)
    while spent(_number(units, digit)) > epsilon:
        units += 1
    while spent(_number(units - 1, digit)) <= epsilon:
        units -= 1
    return _number(units, digit)


def _number(units: int, digit: int) -> float:
    """Return units · 10^digit as the float that its decimal text parses to."""
    return float(f"{units}e{digit}")


Merged = tuple[tuple[float, float, int], ...]  # (q, sigma, steps), sorted


def _merged(events: Iterable[Event]) -> Merged:
    steps: Counter[tuple[float, float]] = Counter()
    for event in events:
        steps[float(event.sampling_rate), float(event.noise_multiplier)] += event.steps
    return tuple(sorted((q, sigma, count) for (q, sigma), count in steps.items() if count))


@lru_cache(maxsize=4096)
def _epsilon(events: Merged, delta: float) -> float:
    bound = _renyi_epsilon(events, delta)
    if bound == 0 or bound > MEANINGLESS:
        return bound
    interval = min(bound / GRID, COARSEST)
    coarser = min(bound, _on_grid(events, delta, interval))
    while True:
        interval /= FINER
        finer = min(coarser, _on_grid(events, delta, interval))
        if coarser - finer <= SETTLED * finer:
            return finer
        coarser = finer


@lru_cache(maxsize=4096)
def _renyi_epsilon(events: Merged, delta: float) -> float:
    """Return epsilon by Rényi divergence at its best whole order, a looser bound (Mironov et al. 2019).

    Conversion: Canonne, Kamath & Steinke 2020, proposition 12.
    """
    if not events:
        return 0.0
    if any(sigma == 0 for _, sigma, _ in events):
        return math.inf
    from dp_accounting.rdp import RdpAccountant

    return float(_compose(RdpAccountant(ORDERS), events).get_epsilon(delta))


def _on_grid(events: Merged, delta: float, interval: float) -> float:
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, interval)
    return float(_compose(accountant, events).get_epsilon(delta))


def _compose(accountant: Any, events: Sequence[tuple[float, float, int]]) -> Any:  # noqa: ANN401 - no types
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent

    for q, sigma, steps in events:
        step = GaussianDpEvent(sigma)
        accountant.compose(step if q == 1 else PoissonSampledDpEvent(q, step), steps)
    return accountant

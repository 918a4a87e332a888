"""Prove a lower bound of a training's epsilon from one run with canaries.

Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run" (arXiv 2305.08846). A fair coin
per canary decides whether it is in the training. An auditor who sees the training's outputs guesses r of the
m coins and abstains from the rest. If the training is (epsilon, delta)-DP under adding or removing one unit,
many right guesses are unlikely. Too many of them refute the claim; few of them prove nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Verdict = Literal["no violation found", "violation", "insufficient power"]

CONFIDENCE = 0.95
_MOST = 2**20  # largest number of canaries considered
_CLOSE = 1e-6  # tolerance of the search for a bound


@dataclass(frozen=True)
class OneRunAudit:
    """The guesses, and the lower bound of epsilon that they prove at `confidence`."""

    lower_bound: float
    claim: float  # epsilon that the training claims
    delta: float
    canaries: int
    guesses: int
    right: int
    confidence: float
    verdict: Verdict

    @property
    def words(self) -> str:
        """Return the verdict in one line: one run can refute a claim but not confirm it."""
        bound = f"epsilon is at least {self.lower_bound:.3g} at {self.confidence:.0%} confidence"
        if self.verdict == "violation":
            return f"violation: {bound}, {self.claim:.3g} is claimed"
        if self.verdict == "insufficient power":
            needed = canaries_needed(self.claim, self.delta, self.confidence)
            enough = f"{needed} right guesses" if needed else "more canaries than delta leaves room for"
            return f"insufficient power: {enough} would be needed to refute {self.claim:.3g}; {bound}"
        return f"lower bound, no violation found: {bound}, {self.claim:.3g} is claimed"


def chance_of(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Bound the probability of `right` or more right guesses if the training is (epsilon, delta)-DP.

    Theorem 5.2 of the paper: the bound is P[W ≥ v] + 2·m·δ·max_i P[v > W ≥ v-i]/i, with W binomial over the
    guesses, each right with probability e^ε/(1+e^ε) as in randomised response.

    >>> round(chance_of(100, 100, 75, math.log(3), 0.0), 3)
    0.553
    """
    from scipy.stats import binom

    chance = 1 / (1 + math.exp(-epsilon))
    pure = float(binom.sf(right - 1, guesses, chance))
    if not delta or not right:
        return min(1.0, pure)
    below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, chance))  # P[v > W ≥ v-i], i from 1
    slack = float((below / np.arange(1, right + 1)).max())
    return min(1.0, pure + 2 * canaries * delta * slack)


def lower_bound(
    canaries: int, guesses: int, right: int, delta: float, confidence: float = CONFIDENCE
) -> float:
    """Return a lower bound of the training's epsilon at this confidence; 0.0 proves nothing.

    The number of guesses must be fixed before the outputs are seen: choosing it by the result would change
    the confidence.

    Args:
        canaries: m, each in the training with probability 1/2.
        guesses: r, the number of guesses.
        right: v, the number of right guesses.
        delta: of the claim.
        confidence: 1 minus the probability of a bound above the true epsilon.

    Raises:
        ValueError: The counts contradict each other.

    >>> [round(lower_bound(256, 256, right, 1e-5), 2) for right in (256, 230, 192)]
    [4.44, 1.83, 0.85]
    """
    if not 0 <= right <= guesses <= canaries:
        raise ValueError(f"{right} right of {guesses} guesses on {canaries} canaries cannot be")

    def refuted(epsilon: float) -> bool:
        # Refuting one epsilon refutes all smaller ones: (ε', δ)-DP implies (ε, δ)-DP for every ε above ε'.
        return chance_of(canaries, guesses, right, epsilon, delta) < 1 - confidence

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high):
        low, high = high, high + 1.0
    while high - low > _CLOSE:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def canaries_needed(epsilon: float, delta: float, confidence: float = CONFIDENCE) -> int | None:
    """Return the fewest canaries that refute an epsilon if all are guessed right; None if no number does.

    If delta is not small compared to e^-epsilon, it accounts for a few excess right guesses among any number.

    >>> canaries_needed(3, 1e-5), canaries_needed(8, 0), canaries_needed(8, 1e-5)
    (62, 8932, 12977)
    """

    def enough(count: int) -> bool:
        return chance_of(count, count, count, epsilon, delta) < 1 - confidence

    low, high = 0, 1
    while not enough(high):
        # Grow slowly: with delta, a range of counts may suffice while larger ones do not.
        low, high = high, high + 1 + high // 4
        if high > _MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def guess(scores: Sequence[float], guesses: int) -> npt.NDArray[np.int8]:
    """Guess 1 (in) for the highest scores, -1 (out) for the lowest, and 0 (abstain) for those between.

    NaN scores count as the median: the outputs say nothing about them.
    """
    values = np.asarray(scores, dtype=np.float64)
    middle = float(np.median(values[np.isfinite(values)])) if np.isfinite(values).any() else 0.0
    order = np.argsort(np.where(np.isnan(values), middle, values), kind="stable")
    guessed = np.zeros(len(values), dtype=np.int8)
    guessed[order[: guesses // 2]] = -1
    guessed[order[len(values) - (guesses - guesses // 2) :]] = 1
    return guessed


def audit_one_run(  # noqa: PLR0913 - what an audit rests on, each named by the caller
    scores: Sequence[float],
    included: Sequence[bool],
    *,
    guesses: int,
    claim: float,
    delta: float,
    confidence: float = CONFIDENCE,
) -> OneRunAudit:
    """Test a claimed epsilon against the canaries' scores.

    Args:
        scores: one per canary, computed without `included`; higher means more likely included.
        included: the coins.
        guesses: number of guesses, fixed beforehand.
        claim: the epsilon that the training claims at `delta`.
        delta: of the claim.
        confidence: of the bound.
    """
    guessed = guess(scores, guesses)
    right = int((guessed == np.where(np.asarray(included), 1, -1)).sum())
    bound = lower_bound(len(guessed), guesses, right, delta, confidence)
    verdict: Verdict = "no violation found"
    if bound > claim:
        verdict = "violation"
    elif lower_bound(len(guessed), guesses, guesses, delta, confidence) <= claim:
        verdict = "insufficient power"
    return OneRunAudit(bound, claim, delta, len(guessed), guesses, right, confidence, verdict)

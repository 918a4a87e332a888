"""What one training with canaries proves about its epsilon: a lower bound, and never more than that.

Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run" (arXiv 2305.08846). Each of m
canaries is in the training or not by a fair coin of its own; whoever sees what the training releases guesses
r of the coins and abstains from the rest. If the training is (epsilon, delta)-DP under adding or removing one
unit, many right guesses are unlikely. Too many of them refute the claim; few of them prove nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Verdict = Literal["no violation found", "violation", "insufficient power"]

CONFIDENCE = 0.95
_MOST = 2**20  # canaries that anybody would insert
_CLOSE = 1e-6  # how closely a bound is searched


@dataclass(frozen=True)
class OneRunAudit:
    """What was guessed, and the lower bound on epsilon that it proves at `confidence`."""

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
        """The verdict as it may be shown: one run can refute a claim and cannot confirm it."""
        bound = f"epsilon is at least {self.lower_bound:.3g} at {self.confidence:.0%} confidence"
        if self.verdict == "violation":
            return f"violation: {bound}, {self.claim:.3g} is claimed"
        if self.verdict == "insufficient power":
            needed = canaries_needed(self.claim, self.delta, self.confidence)
            enough = f"{needed} right guesses" if needed else "more canaries than delta leaves room for"
            return f"insufficient power: {enough} would be needed to refute {self.claim:.3g}; {bound}"
        return f"lower bound, no violation found: {bound}, {self.claim:.3g} is claimed"


def chance_of(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Bound the chance of `right` or more right guesses if the training is (epsilon, delta)-DP.

    Theorem 5.2 there: with W binomial over the guesses, each right with chance e^ε/(1+e^ε) as in randomised
    response, it is at most P[W ≥ v] + 2·m·δ·max_i P[v > W ≥ v-i]/i.

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
    """Return an epsilon that the training exceeds, or equals, with this confidence; 0.0 proves nothing.

    The number of guesses is fixed before the training is looked at: choosing it by the result needs another
    confidence.

    Args:
        canaries: m, each in the training with chance 1/2.
        guesses: r of them that were guessed.
        right: v guesses that were right.
        delta: of the claim.
        confidence: 1 minus the chance of a bound above the true epsilon.

    >>> [round(lower_bound(256, 256, right, 1e-5), 2) for right in (256, 230, 192)]
    [4.44, 1.83, 0.85]
    """
    if not 0 <= right <= guesses <= canaries:
        raise ValueError(f"{right} right of {guesses} guesses on {canaries} canaries cannot be")

    def refuted(epsilon: float) -> bool:
        # Refuting one epsilon refutes all below it: (ε', δ)-DP is (ε, δ)-DP for every ε above ε'.
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
    """The fewest canaries that, all guessed right, refute an epsilon; None where no number does.

    Where delta is not small beside e^-epsilon, it explains a few right guesses too many of any number.

    >>> canaries_needed(3, 1e-5), canaries_needed(8, 0), canaries_needed(8, 1e-5)
    (62, 8932, 12977)
    """

    def enough(count: int) -> bool:
        return chance_of(count, count, count, epsilon, delta) < 1 - confidence

    low, high = 0, 1
    while not enough(high):
        # In small strides: with delta, a range of counts may be enough and larger ones not.
        low, high = high, high + 1 + high // 4
        if high > _MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def guess(scores: Sequence[float], guesses: int) -> npt.NDArray[np.int8]:
    """Guess: 1 for the highest scores (in), -1 for the lowest (out), 0 for what is left between them.

    A score that is no number stands in the middle: what was released says nothing about it.
    """
    known = np.asarray(scores, dtype=np.float64)
    middle = float(np.median(known[np.isfinite(known)])) if np.isfinite(known).any() else 0.0
    order = np.argsort(np.where(np.isnan(known), middle, known), kind="stable")
    told = np.zeros(len(known), dtype=np.int8)
    told[order[: guesses // 2]] = -1
    told[order[len(known) - (guesses - guesses // 2) :]] = 1
    return told


def audit_one_run(  # noqa: PLR0913 - what an audit rests on, each named by the caller
    scores: Sequence[float],
    included: Sequence[bool],
    *,
    guesses: int,
    claim: float,
    delta: float,
    confidence: float = CONFIDENCE,
) -> OneRunAudit:
    """Hold a claim against the canaries' scores.

    Args:
        scores: one a canary, computed without `included`; higher speaks for being in.
        included: the coins.
        guesses: how many to guess, fixed beforehand.
        claim: the epsilon that the training claims at `delta`.
        delta: of the claim.
        confidence: of the bound.
    """
    told = guess(scores, guesses)
    right = int((told == np.where(np.asarray(included), 1, -1)).sum())
    bound = lower_bound(len(told), guesses, right, delta, confidence)
    verdict: Verdict = "no violation found"
    if bound > claim:
        verdict = "violation"
    elif lower_bound(len(told), guesses, guesses, delta, confidence) <= claim:
        verdict = "insufficient power"
    return OneRunAudit(bound, claim, delta, len(told), guesses, right, confidence, verdict)

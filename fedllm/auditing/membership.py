"""Measure how well an attacker tells members of a training from others: a heuristic, not a bound.

A failed attack says nothing about a better one. The ledger's epsilon bounds every attack.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

RATE = 0.01  # share of non-members that the attack may call members
CONFIDENCE = 0.95
_FEWEST = 1 / RATE  # fewest non-members: one of them is 1 %


@dataclass(frozen=True)
class MembershipReport:
    """True positive rate at 1 % false positives, with an interval; both None below 100 non-members."""

    tpr: float | None  # share of members that the attack detects
    interval: tuple[float, float] | None  # of `tpr` for this threshold, at 95 %
    fpr: float | None  # of this threshold on these non-members; at most 1 %
    auc: float | None  # probability that a member scores above a non-member; 0.5 is guessing
    members: int
    non_members: int
    kind: Literal["heuristic"] = "heuristic"

    @property
    def words(self) -> str:
        """Return the report in one line."""
        counts = f"{self.members} members, {self.non_members} non-members"
        if self.tpr is None or self.interval is None:
            return f"heuristic: too few records ({counts}): 1 % needs {_FEWEST:.0f} non-members"
        low, high = self.interval
        rate = f"{self.tpr:.1%} of members found at 1 % false positives ({low:.1%} to {high:.1%}"
        return f"heuristic: {rate}; {counts}; guessing finds 1 %)"

    def public_json(self) -> dict[str, object]:
        """Return the report as `fedllm audit --json` and the flow show it."""
        return {
            "tpr_at_1_percent_fpr": self.tpr,
            "interval": list(self.interval) if self.interval else None,
            "fpr": self.fpr,
            "auc": self.auc,
            "members": self.members,
            "non_members": self.non_members,
            "kind": self.kind,
        }


def membership(members: Sequence[float], non_members: Sequence[float]) -> MembershipReport:
    """Attack by one threshold on a score, such as loss before the training minus loss after it.

    The measure is that of Carlini et al. 2022 (arXiv 2112.03570), for the simplest attack: the model before
    the training is the reference. The threshold is the lowest with at most 1 % of non-members above it.

    Args:
        members: scores of trained records; higher means more likely a member.
        non_members: scores of held-out records of the same kind.
    """
    inside, outside = np.asarray(members, dtype=np.float64), np.asarray(non_members, dtype=np.float64)
    if not len(inside) or len(outside) < _FEWEST:
        return MembershipReport(None, None, None, None, len(inside), len(outside))
    allowed = math.floor(len(outside) * RATE)
    threshold = float(np.sort(outside)[::-1][allowed])  # strictly above it: at most `allowed` of them
    detected = int((inside > threshold).sum())
    ranks = np.searchsorted(np.sort(outside), inside, "left") + np.searchsorted(
        np.sort(outside), inside, "right"
    )
    return MembershipReport(
        tpr=detected / len(inside),
        interval=exact_interval(detected, len(inside)),
        fpr=float((outside > threshold).mean()),
        auc=float(ranks.mean() / 2 / len(outside)),
        members=len(inside),
        non_members=len(outside),
    )


def exact_interval(successes: int, count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the Clopper-Pearson interval (1934) of a share.

    >>> [round(end, 3) for end in exact_interval(1, 10)]
    [0.003, 0.445]
    """
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    failures = count - successes
    low = float(beta.ppf(tail, successes, failures + 1)) if successes else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, failures)) if failures else 1.0
    return low, high

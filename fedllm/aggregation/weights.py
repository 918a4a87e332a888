"""Weights of updates: public integers from the plan, not normalised before the round closes."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Literal

from fedllm.errors import RefusedError

_LARGEST_SHARE = Fraction(1, 2)  # of the sum of weights per site, however few the sites


def capped(told: Mapping[str, int], cap: float) -> dict[str, int]:
    """Cap each site's share of the total weight, because sites report their own counts.

    A cap on the count alone does not help with two sites, or when half of the sites lie. With a share of at
    most `cap` / n, k liars of n weigh at most k · `cap` / n together.

    Args:
        told: each site's reported count, at least 1.
        cap: most equal shares per site, at least 1. With two or more sites no site weighs more than half.

    Returns:
        The counts, with the largest lowered to one number: the greatest within the share of the new sum.
    """
    share = max(Fraction(1, len(told)), min(_LARGEST_SHARE, Fraction(cap) / len(told)))
    rest = sum(told.values())
    most = Fraction(rest)
    for lowered, count in enumerate(sorted(told.values(), reverse=True)):
        most = share * rest / (1 - lowered * share)  # limit of each lowered count, given the rest
        if count <= most:  # comes before the lowered hold the whole: then `most` exceeds the rest
            break
        rest -= count
    return {name: min(count, int(most)) for name, count in told.items()}


def weight(weighting: Literal["examples", "work", "equal"], planned: int, steps: int) -> int:
    """Return the weight of one accepted update.

    Args:
        weighting: `examples` and `equal` use the planned weight; `work` counts processed examples.
        planned: the plan's integer for this site; under `work` it is the batch size.
        steps: local steps that the round verified, at most those of the plan.

    Returns:
        The unnormalised weight, at least 1 (`closed.json` holds no update of weight 0).

    Raises:
        RefusedError: the weight would be 0 or less.
    """
    total = planned * steps if weighting == "work" else planned
    if total < 1:
        raise RefusedError(f"the update would have weight {total}: planned weight {planned}, steps {steps}")
    return total

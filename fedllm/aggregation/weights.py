"""How much an update counts: public integers, fixed in the plan and never divided before the round closes."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Literal

from fedllm.errors import RefusedError

_MOST = Fraction(1, 2)  # of the whole: what nobody's word goes beyond, however few the sites


def capped(told: Mapping[str, int], cap: float) -> dict[str, int]:
    """Bound what each site counts for by its share of the whole, for the counts are the sites' own word.

    A bound on the count alone holds nothing when two sites meet, or when half of them lie. With a share of at
    most `cap` / n, k liars of n weigh at most k · `cap` / n together.

    Args:
        told: each site's count, at least 1.
        cap: how many equal shares one site may weigh at most, at least 1. No site of two or more weighs above
            half.

    Returns:
        The counts, the largest lowered to one number: the greatest that is within the share of the new sum.
    """
    share = max(Fraction(1, len(told)), min(_MOST, Fraction(cap) / len(told)))
    rest = sum(told.values())
    most = Fraction(rest)
    for lowered, count in enumerate(sorted(told.values(), reverse=True)):
        most = share * rest / (1 - lowered * share)  # each of the lowered may count for, beside the rest
        if count <= most:  # sure to come before the lowered have the whole: then `most` is above the rest
            break
        rest -= count
    return {name: min(count, int(most)) for name, count in told.items()}


def weight(weighting: Literal["examples", "work", "equal"], planned: int, steps: int) -> int:
    """Weigh one accepted update.

    Args:
        weighting: `examples` and `equal` count as planned; `work` counts examples that were processed.
        planned: the plan's integer for this site; under `work` it is the batch size.
        steps: local steps that the round verified, at most what the plan asked for.

    Returns:
        The unnormalised weight, at least 1 (`closed.json` holds no update that counts for nothing).

    Raises:
        RefusedError: the weight would be 0 or less.
    """
    chosen = planned * steps if weighting == "work" else planned
    if chosen < 1:
        raise RefusedError(f"the update would count for {chosen}: planned weight {planned}, steps {steps}")
    return chosen

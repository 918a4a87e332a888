"""Combine the updates of a round into one; `aggregation.combine` names the combination."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from fedllm.aggregation.mean import weighted_mean
from fedllm.aggregation.median import weighted_median
from fedllm.aggregation.stream import Updates
from fedllm.errors import RefusedError


@dataclass(frozen=True)
class Combine:
    """A combination: a stream of (weight, update) in, one update out.

    Updates and result are flat float32 of shape (n,). The stream is read once and in order; each combination
    states how much of it is in memory. The same updates give the same bytes on every machine. Server
    optimisers take the result as the round's update.
    """

    of: Callable[[Updates, int | None], torch.Tensor]  # the second argument: the denominator of `combined`
    needs_single_updates: bool  # else it depends on their weighted sum alone


COMBINES: Mapping[str, Combine] = {
    "mean": Combine(weighted_mean, needs_single_updates=False),
    "median": Combine(weighted_median, needs_single_updates=True),
}


def combined(name: str, updates: Updates, denominator: int | None = None) -> torch.Tensor:
    """Combine the updates of a round.

    Args:
        name: one of `COMBINES`.
        updates: in the order that `closed.json` fixes.
        denominator: a divisor of the sum that is fixed beforehand (site-level privacy); None: the weights'
            sum.

    Returns:
        float32, shape (n,).

    Raises:
        RefusedError: the updates do not fit each other, or the combination takes no denominator.
    """
    combine = COMBINES[name]
    if denominator is not None and combine.needs_single_updates:
        raise RefusedError(f"a {name} takes no denominator: privacy by site needs the sum of the updates")
    return combine.of(updates, denominator)

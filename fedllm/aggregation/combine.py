"""How the updates of a round become one: the combinations that `aggregation.combine` names."""

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

    Updates are flat float32 of shape (n,), and so is the result. The stream is read once and in order, and no
    more of it is in memory than the combination says. The same updates give the same bytes on every machine.
    Server optimisers take the result as the round's update.
    """

    of: Callable[[Updates, int | None], torch.Tensor]  # the second: see `combined`
    needs_single_updates: bool  # else their weighted sum is all that it depends on


COMBINES: Mapping[str, Combine] = {
    "mean": Combine(weighted_mean, needs_single_updates=False),
    "median": Combine(weighted_median, needs_single_updates=True),
}


def combined(name: str, updates: Updates, denominator: int | None = None) -> torch.Tensor:
    """Combine the updates of a round.

    Args:
        name: one of `COMBINES`.
        updates: in the order that `closed.json` fixes.
        denominator: what a sum is divided by where that is fixed beforehand (site-level privacy); None: the
            weights' sum.

    Returns:
        float32, shape (n,).

    Raises:
        RefusedError: the updates do not fit each other, or there is a denominator and no sum to divide by it.
    """
    combine = COMBINES[name]
    if denominator is not None and combine.needs_single_updates:
        raise RefusedError(f"a {name} has no denominator: with privacy of whole sites updates are summed")
    return combine.of(updates, denominator)

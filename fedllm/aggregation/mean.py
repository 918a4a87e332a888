"""The weighted mean of updates, streamed: one update in memory at a time."""

import torch

from fedllm.aggregation.stream import Updates, checked
from fedllm.errors import RefusedError


def weighted_mean(updates: Updates, denominator: int | None = None) -> torch.Tensor:
    """Average updates by integer weights, as federated averaging does (McMahan et al. 2017, Algorithm 1).

    The sum runs in float64 in the given order and is divided once, at the end. Floating-point sums depend on
    their order, so the caller passes the order that `closed.json` fixes, not the order of arrival: then the
    result is the same to the bit on every machine. Multiplication and addition are two operations on purpose:
    a fused one rounds once instead of twice, and not every processor has it.

    Args:
        updates: pairs of a weight, an unnormalised integer >= 0, and a flat float32 tensor, shape (n,).
            It is read once; each tensor may be freed when the next one is requested.
        denominator: a public number fixed beforehand, where a site's absence must not change the others'
            share (site-level privacy); None: the weights' sum.

    Returns:
        sum(weight * update) / denominator, float32, shape (n,).

    Raises:
        RefusedError: there is no update, a weight is not such an integer, the weights sum to zero, or a
            tensor is not flat float32 of the first one's size.
    """
    summed = 0
    accumulator: torch.Tensor | None = None
    for weight, update in checked(updates):
        if accumulator is None:
            accumulator = torch.zeros(update.shape, dtype=torch.float64)  # (n,)
        accumulator.add_(update.to(torch.float64).mul_(weight))
        summed += weight
        del update  # the generator may free it before it reads the next one
    if accumulator is None:
        raise RefusedError("there is no update to average")
    if summed == 0:
        raise RefusedError("the weights sum to zero: at least one counted update needs a weight above 0")
    return accumulator.div_(denominator or summed).to(torch.float32)

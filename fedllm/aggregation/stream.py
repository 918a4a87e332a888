"""The input of every combination: a stream of each site's weight and update."""

from collections.abc import Iterable, Iterator

import torch

from fedllm.errors import RefusedError

Updates = Iterable[tuple[int, torch.Tensor]]  # an unnormalised integer >= 0, and flat float32 of shape (n,)

LARGEST_WEIGHT = 2**53  # above it an integer may not be exact in float64


def checked(updates: Updates) -> Iterator[tuple[int, torch.Tensor]]:
    """Check a stream and yield its pairs, one at a time.

    Raises:
        RefusedError: a weight is out of range, or an update is not flat float32 of the first one's size.
    """
    size: int | None = None
    for number, (weight, update) in enumerate(updates):
        _check(number, weight, update)
        if size is None:
            size = update.numel()
        elif update.numel() != size:
            raise RefusedError(
                f"update {number} has {update.numel()} values, the first one {size}: "
                "updates of one round share one layout"
            )
        yield weight, update
        del update  # the stream may free it before it makes the next one


def _check(number: int, weight: int, update: torch.Tensor) -> None:
    if isinstance(weight, bool) or not isinstance(weight, int) or not 0 <= weight <= LARGEST_WEIGHT:
        raise RefusedError(f"update {number} has the weight {weight!r}: weights are integers from 0 to 2**53")
    if update.ndim != 1 or update.dtype != torch.float32:
        raise RefusedError(
            f"update {number} is {update.dtype} of shape {tuple(update.shape)}: expected flat float32"
        )

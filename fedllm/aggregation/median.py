"""The coordinate-wise weighted median of updates, with one block of coordinates in memory at a time."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedllm.aggregation.stream import Updates, checked
from fedllm.disk import room
from fedllm.errors import RefusedError

_BLOCK = 1 << 21  # numbers in memory at once, over all updates: about 100 MB with the memory for sorting
_MOST_WEIGHT = 2**62  # limit of the sum: twice a sum of weights must fit an int64


def weighted_median(updates: Updates, _denominator: int | None = None) -> torch.Tensor:
    """Take each coordinate's median over the updates (Yin et al. 2018, arXiv 1803.01498, Definition 1).

    For values with weights of sum W, sorted by value, the lower median is the first value at which the
    cumulative weight reaches W/2, the upper median the first at which it exceeds W/2. They differ only where
    a cumulative weight is exactly W/2. The result is the mean of both. With equal weights that is
    `numpy.median`: the middle value, or the mean of the two middle ones. Updates of weight 0 have no effect.

    A median needs all updates' values of a coordinate at once. So the stream is read once into an unnamed
    temporary file (4 bytes times n times the updates), which ends with this process, and then by blocks of
    coordinates. Memory does not grow with the number of updates. A median has no denominator: `combined`
    refuses one.

    Args:
        updates: pairs of a weight, an unnormalised integer >= 0, and a flat float32 tensor, shape (n,), all
            finite. It is read once; each tensor may be freed when the next one is requested.

    Returns:
        float32, shape (n,): the same bytes for any order of the updates.

    Raises:
        RefusedError: there is no update, a weight is not such an integer, the weights sum to zero or to at
            least 2^62, or a tensor is not flat float32 of the first one's size.
        DiskFullError: the folder for temporary files has no room.
    """
    weights: list[int] = []
    size = 0
    with tempfile.TemporaryFile() as spilled:
        for weight, update in checked(updates):
            size = update.numel()
            with room(Path(tempfile.gettempdir()), "go on with --resume, or name another folder in TMPDIR"):
                spilled.write(update.numpy().astype("<f4", copy=False).tobytes())
                spilled.flush()
            weights.append(weight)
            del update  # the generator may free it before it reads the next one
        if not weights:
            raise RefusedError("there is no update to take a median of")
        if not 0 < sum(weights) < _MOST_WEIGHT:
            raise RefusedError(f"the weights sum to {sum(weights)}: a median needs a sum from 1 to 2**62 - 1")
        values = np.memmap(spilled, dtype="<f4", mode="r", shape=(len(weights), size))
        median = np.empty(size, dtype=np.float32)
        width = max(1, _BLOCK // len(weights))
        counts = np.array(weights, dtype=np.int64)
        for start in range(0, size, width):
            block = slice(start, start + width)
            median[block] = _median(values[:, block], counts)
    return torch.from_numpy(median)


def _median(values: "np.ndarray[Any, Any]", weights: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Return the medians of the columns of (updates, coordinates); float64, (coordinates,)."""
    order = np.argsort(values, axis=0)
    ordered = np.take_along_axis(values, order, axis=0).astype(np.float64)
    twice = 2 * weights[order].cumsum(axis=0)
    total = twice[-1] // 2
    lower = np.argmax(twice >= total, axis=0)[None]  # argmax returns the first True
    upper = np.argmax(twice > total, axis=0)[None]
    pair = np.take_along_axis(ordered, lower, axis=0) + np.take_along_axis(ordered, upper, axis=0)
    # Adding 0.0 turns -0.0 into 0.0: the two compare as equal, so their order is that of the updates.
    median: np.ndarray[Any, Any] = pair[0] / 2 + 0.0
    return median

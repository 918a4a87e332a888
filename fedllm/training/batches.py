"""Random batches by seed, each split into micro-batches of like lengths.

Batches themselves are never sorted by length: length goes with silo and label, and batches unlike the
data train worse. Inside a batch the order means nothing, so there it saves padding for free.
"""

from collections.abc import Iterator, Sequence

import numpy as np

_OVERHEAD = 24  # tokens: what one more pass over the model costs


def draw(count: int, batch_size: int, steps: int, seed: Sequence[int]) -> Iterator[list[int]]:
    """Draw `steps` batches of indices, every record once before any comes twice.

    Args:
        count: records there are.
        batch_size: indices a batch.
        steps: batches.
        seed: of the draw, such as (seed, round).
    """
    chance = np.random.default_rng(list(seed))
    waiting: list[int] = []
    for _ in range(steps):
        while len(waiting) < batch_size:
            waiting += chance.permutation(count).tolist()
        yield waiting[:batch_size]
        waiting = waiting[batch_size:]


def split(lengths: Sequence[int], overhead: int = _OVERHEAD) -> list[list[int]]:
    """Split a batch where padding and passes together cost least.

    Args:
        lengths: tokens of each example.
        overhead: tokens that a pass costs whatever its size.

    Returns:
        Indices into `lengths`, one list a micro-batch, each sorted by length.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    best = [0]  # cost of the first n examples in order
    cut = [0]  # where their last micro-batch starts
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        costs = [best[start] + (end - start) * longest + overhead for start in range(end)]
        start = int(np.argmin(costs))
        best.append(costs[start])
        cut.append(start)
    parts = []
    end = len(order)
    while end:
        parts.append(order[cut[end] : end])
        end = cut[end]
    return parts[::-1]

"""Random batches by seed, and how a batch is split into parts that go through the model at once.

Batches themselves are never sorted by length: length goes with silo and label, and batches unlike the
data train worse. Inside a batch the order means nothing.
"""

from collections.abc import Iterator, Sequence

import numpy as np


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


def filled(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Parts in the order given, each of at most so many tokens; a longer example is one by itself."""
    parts: list[list[int]] = []
    tokens = most
    for index, length in enumerate(lengths):
        tokens += length
        if tokens > most:
            parts.append([])
            tokens = length
        parts[-1].append(index)
    return parts


def by_length(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Parts of like lengths, each of at most so many tokens when padded to its longest example."""
    parts: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if not parts or (len(parts[-1]) + 1) * lengths[index] > most:
            parts.append([])
        parts[-1].append(index)
    return parts

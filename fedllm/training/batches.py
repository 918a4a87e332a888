"""Draw random batches from a seed, and split a batch into parts for single passes of the model.

Batches themselves are never sorted by length: length correlates with silo and label, and batches unlike the
data train worse. The order within a batch has no effect.
"""

from collections.abc import Iterator, Sequence

import numpy as np


def draw(count: int, batch_size: int, steps: int, seed: Sequence[int]) -> Iterator[list[int]]:
    """Draw `steps` batches of indices; every record is drawn once before any is drawn again.

    Args:
        count: number of records.
        batch_size: indices per batch.
        steps: number of batches.
        seed: of the draw, such as (seed, round).
    """
    rng = np.random.default_rng(list(seed))
    queue: list[int] = []
    for _ in range(steps):
        while len(queue) < batch_size:
            queue += rng.permutation(count).tolist()
        yield queue[:batch_size]
        queue = queue[batch_size:]


def filled(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Split in the given order into parts of at most `most` tokens; a longer example is its own part."""
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
    """Split into parts of similar lengths, each at most `most` tokens when padded to its longest example."""
    parts: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if not parts or (len(parts[-1]) + 1) * lengths[index] > most:
            parts.append([])
        parts[-1].append(index)
    return parts

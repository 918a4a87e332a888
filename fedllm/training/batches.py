"""Random batches by seed, each split into micro-batches of like lengths.

Batches themselves are never sorted by length: length goes with silo and label, and batches unlike the
data train worse. Inside a batch the order means nothing, so there it saves padding for free.
"""

from collections.abc import Iterator, Sequence

import numpy as np

_OVERHEAD = 24  # tokens: what one more pass over the model costs
_MOST = 2048  # tokens of a micro-batch, padding counted: memory goes with them, whatever a batch is


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


def split(lengths: Sequence[int], overhead: int = _OVERHEAD, most: int = _MOST) -> list[list[int]]:
    """Split a batch where padding and passes together cost least; cut what is too large for one pass.

    Args:
        lengths: tokens of each example.
        overhead: tokens that a pass costs whatever its size.
        most: tokens of a micro-batch with its padding. A longer example is one by itself.

    Returns:
        Indices into `lengths`, one list a micro-batch, each sorted by length.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    cut = _cheapest([lengths[i] for i in order], overhead)
    parts: list[list[int]] = []
    end = len(order)
    while end:
        start = cut[end]
        rows = max(1, most // max(1, lengths[order[end - 1]]))
        parts += [order[max(start, last - rows) : last] for last in range(end, start, -rows)]
        end = start
    return parts[::-1]


def _cheapest(lengths: Sequence[int], overhead: int) -> list[int]:
    """Where the last micro-batch of the first n examples starts, for every n, in time linear in their number.

    A micro-batch from `start` to `end` costs (end - start) tokens of its longest example, and a pass:

        best(end) = min over start of best(start) - start * longest(end), + end * longest(end) + overhead

    Each start is a line over `longest`, each later one is steeper downwards, and `longest` only rises: once a
    later line is below an earlier one it stays so, and lines that are lowest nowhere are dropped (the convex
    hull trick). Of equal costs the first start counts.

    Args:
        lengths: tokens of each example, rising.
        overhead: tokens that a pass costs whatever its size.
    """
    best = [0]  # cost of the first n examples
    cut = [0]
    lines: list[int] = []  # starts that are lowest somewhere, by where that is
    front = 0  # of those, the lowest for now
    for end, longest in enumerate(lengths, start=1):
        new = end - 1
        while len(lines) - front > 1 and _hides(best, lines[-2], lines[-1], new):
            lines.pop()
        lines.append(new)
        while front + 1 < len(lines) and (
            best[lines[front + 1]] - lines[front + 1] * longest < best[lines[front]] - lines[front] * longest
        ):
            front += 1
        start = lines[front]
        best.append(best[start] + (end - start) * longest + overhead)
        cut.append(start)
    return cut


def _hides(best: Sequence[int], first: int, middle: int, last: int) -> bool:
    """Whether the line of `middle` is below those of the starts beside it nowhere."""
    return (best[last] - best[middle]) * (middle - first) <= (best[middle] - best[first]) * (last - middle)

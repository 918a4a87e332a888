"""Clip, sum and noise gradients in whole numbers; floating point begins after the noise.

Floating point leaks what noise should hide: the set of values that a float sum can take depends on the true
sum, so the low bits of a noised sum reveal it (Mironov 2012; Haney et al. 2022, arXiv 2207.13793). Here every
unit's gradient and the noise are whole multiples of one public power of two. Their sum is exact in any order,
each unit's norm is at most the clip, exactly, and the noise is an ideal Gaussian rounded to the grid. Since
the sum lies on the grid, adding rounded noise equals adding the ideal Gaussian and rounding afterwards. That
is post-processing of the Gaussian mechanism, so its epsilon and delta hold unchanged (docs/decisions/0019).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from fedllm.privacy.noise import NoiseSource

FINE = 24  # bits of the grid below the larger of clip and noise
EXACT_IN_FP32 = 19  # with this many bits fp32 holds each noised number exactly, except once in 10^50
LEAST, MOST = 1e-12, 1e12  # range of clip and noise: steps and squares stay within fp32's range
LEAST_NOISE = 2.0**7  # smallest standard deviation of the noise, in grid steps
_BLOCK = 1 << 17  # numbers processed at once: they fit into a processor's cache


@dataclass(frozen=True)
class Grid:
    """The public grid of a Gaussian mechanism with units clipped to `clip` and noise of `std`."""

    clip: float  # L2
    std: float  # of the noise that this process adds to every number
    fine: int = FINE

    def __post_init__(self) -> None:
        if not (LEAST <= self.clip <= MOST and LEAST <= self.std <= MOST):
            raise ValueError(f"a clip of {self.clip} and noise of {self.std} are not from {LEAST} to {MOST}")
        if self.std < LEAST_NOISE * self.step:
            raise ValueError(f"noise of {self.std} is too little for a clip of {self.clip}")

    @property
    def step(self) -> float:
        """Return the distance between two neighbouring grid points, a power of two."""
        return math.ldexp(1.0, math.frexp(max(self.clip, self.std))[1] - 1 - self.fine)

    def sum_clipped(self, gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Constrain sensitivity: clip each unit's gradient, round it towards zero, and sum over units.

        Args:
            gradients: for each tensor (units, *shape); a unit's gradient is its rows of all tensors.

        Returns:
            For each tensor the sum in grid steps, (*shape), int64. Non-finite gradients add nothing.
        """
        rows = [gradient.flatten(1).float() for gradient in gradients]  # each (units, numbers)
        norm = _squares(rows).sqrt()  # (units,)
        finite = torch.isfinite(norm)
        if not bool(finite.all()):  # zero times infinity is not zero
            rows, norm = [row[finite] for row in rows], norm[finite]
        # An fp32 product errs by at most 2^-23, the scale's rounding included, and a float64 norm by 2^-53
        # per number, in any order of addition; all other rounding is towards zero.
        guard = 1 - 2.0**-22 - 2.0**-52 * (sum(row.shape[1] for row in rows) + 8)
        scale = ((self.clip / self.step * guard) / norm.clamp(min=self.clip)).float()
        return [
            _scaled_sum(row, scale).view(like.shape[1:]) for row, like in zip(rows, gradients, strict=True)
        ]

    def hide(self, sums: Sequence[torch.Tensor], noise: NoiseSource) -> list[torch.Tensor]:
        """Add independent noise to every number of sums in grid steps; return float64 of the same shapes."""
        noised = []
        for part in sums:
            drawn = noise.gaussian(part.numel(), self.std / self.step)
            noised.append((part + drawn.view_as(part).to(part.device)).double() * self.step)
        return noised


def _blocks(row: torch.Tensor) -> Iterator[slice]:
    """Yield slices of units that hold about `_BLOCK` numbers each."""
    size = max(1, _BLOCK // max(1, row.shape[1]))
    yield from (slice(start, start + size) for start in range(0, len(row), size))


def _squares(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return each unit's squared norm, (units,), float64.

    Units are summed one at a time: a batched sum's order of addition may depend on the number of units, and
    then so would each unit's contribution.
    """
    squares = rows[0].new_zeros(len(rows[0]), dtype=torch.float64)
    for row in rows:
        for unit, numbers in enumerate(row):
            squares[unit] += numbers.double().square_().sum()
    return squares


def _scaled_sum(row: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Scale rows of shape (units, numbers), round them towards zero, and sum over units; int64."""
    total = row.new_zeros(row.shape[1], dtype=torch.float64)
    for block in _blocks(row):
        whole = (row[block] * scale[block, None]).trunc_()
        total += whole.sum(0, dtype=torch.float64)  # exact: whole numbers below 2^53
    return total.to(torch.int64)

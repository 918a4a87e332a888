"""From a unit's clipped gradient to the noised sum in whole numbers; floating point begins after the noise.

Floating point betrays what noise should hide: which numbers a sum of floats can be depends on the true sum,
so the low bits of a noised one tell it (Mironov 2012; Haney et al. 2022, arXiv 2207.13793). Here every unit's
gradient and the noise are whole multiples of one public power of two. A sum of these is exact, whatever the
order; each unit's norm is at most the clip, exactly; and the noise is an ideal Gaussian rounded to the grid.
The sum lies on the grid, so adding that is adding the ideal Gaussian and rounding afterwards: a function of
what the Gaussian mechanism releases, whose epsilon and delta hold as they are (docs/decisions/0019).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from fedllm.privacy.noise import NoiseSource

FINE = 24  # bits of the grid below the larger of clip and noise
EXACT_IN_FP32 = 19  # so many, and fp32 holds each noised number as it is, but for one time in 10^50
LEAST, MOST = 1e-12, 1e12  # of clip and noise: no step and no square is out of fp32's range
LEAST_NOISE = 2.0**7  # steps: what the noise's standard deviation has at least
_BLOCK = 1 << 17  # numbers at once: they fit into a processor's cache


@dataclass(frozen=True)
class Grid:
    """The public grid of a mechanism that hides what one unit of at most `clip` adds by noise of `std`."""

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
        """The distance of two neighbouring numbers, a power of two."""
        return math.ldexp(1.0, math.frexp(max(self.clip, self.std))[1] - 1 - self.fine)

    def sum_clipped(self, gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Constrain sensitivity: scale each unit's gradient to the clip at most, round towards zero, add up.

        Args:
            gradients: for each tensor (units, *shape); a unit's gradient is its rows of all tensors.

        Returns:
            For each tensor the sum in steps, (*shape), int64. A gradient that is not finite adds nothing.
        """
        rows = [gradient.flatten(1).float() for gradient in gradients]  # each (units, numbers)
        norm = _squares(rows).sqrt()  # (units,)
        finite = torch.isfinite(norm)
        if not bool(finite.all()):  # zero times infinity is no zero
            rows, norm = [row[finite] for row in rows], norm[finite]
        # A product in fp32 errs by 2^-23 at most, scale and all, and a norm in float64 by 2^-53 a number,
        # however it is added up; all other rounding is towards zero.
        guard = 1 - 2.0**-22 - 2.0**-52 * (sum(row.shape[1] for row in rows) + 8)
        scale = ((self.clip / self.step * guard) / norm.clamp(min=self.clip)).float()
        return [
            _scaled_sum(row, scale).view(like.shape[1:]) for row, like in zip(rows, gradients, strict=True)
        ]

    def hide(self, sums: Sequence[torch.Tensor], noise: NoiseSource) -> list[torch.Tensor]:
        """Add independent noise to every number of sums in steps; returns float64 of the same shapes."""
        noised = []
        for part in sums:
            drawn = noise.gaussian(part.numel(), self.std / self.step)
            noised.append((part + drawn.view_as(part).to(part.device)).double() * self.step)
        return noised


def _blocks(row: torch.Tensor) -> Iterator[slice]:
    """Some units at a time."""
    size = max(1, _BLOCK // max(1, row.shape[1]))
    yield from (slice(start, start + size) for start in range(0, len(row), size))


def _squares(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Each unit's squared norm, (units,), float64.

    One unit after the other: several at once may be added up in an order that depends on how many they are,
    and with it what each of them adds to the sum.
    """
    found = rows[0].new_zeros(len(rows[0]), dtype=torch.float64)
    for row in rows:
        for unit, numbers in enumerate(row):
            found[unit] += numbers.double().square_().sum()
    return found


def _scaled_sum(row: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The sum over units of their rows times their scales, (units, numbers), rounded towards zero; int64."""
    total = row.new_zeros(row.shape[1], dtype=torch.float64)
    for block in _blocks(row):
        whole = (row[block] * scale[block, None]).trunc_()
        total += whole.sum(0, dtype=torch.float64)  # exact: whole numbers below 2^53
    return total.to(torch.int64)

"""The grid: what a unit adds is bounded exactly, sums are exact, and noise is added in whole numbers."""

import math
from fractions import Fraction

import pytest
import torch

from fedllm.privacy.grid import EXACT_IN_FP32, FINE, LEAST_NOISE, Grid
from fedllm.privacy.noise import SecureNoise

CLIP = 0.3
GRID = Grid(CLIP, 1.7)


def heavy(units: int, seed: int = 1) -> list[torch.Tensor]:
    """Gradients of all sizes for two tensors."""
    chance = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-3, 3, units)
    return [
        sizes[:, None, None] * torch.randn(units, 3, 4, generator=chance),
        sizes[:, None] * torch.randn(units, 5, generator=chance),
    ]


def flat(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.flatten() for part in parts])


def square(whole: torch.Tensor) -> int:
    """The exact squared norm."""
    return sum(number * number for number in whole.tolist())


@pytest.mark.parametrize(("clip", "std"), [(0.3, 1.7), (1.0, 1.0), (7.0, 0.01), (1e-12, 5.0), (1e12, 1e12)])
def test_a_step_is_a_power_of_two_far_below_clip_or_noise(clip: float, std: float) -> None:
    grid = Grid(clip, std)
    assert math.frexp(grid.step)[0] == 0.5
    assert 2**FINE <= max(clip, std) / grid.step < 2 ** (FINE + 1)
    assert (Fraction(clip) / Fraction(grid.step)) ** 2 < 2**50


@pytest.mark.parametrize(
    ("clip", "std"), [(0.0, 1.0), (1.0, 0.0), (1e37, 1.0), (1.0, math.nan), (1.0, 2.0**-18)]
)
def test_a_mechanism_without_a_bound_or_without_noise_is_refused(clip: float, std: float) -> None:
    with pytest.raises(ValueError, match="clip"):
        Grid(clip, std)


def test_a_small_gradient_stays_as_it_is_but_for_its_last_bits() -> None:
    left, right = Grid(1.0, 1.0).sum_clipped([torch.full((2, 3), 0.1), torch.full((2, 1), 0.2)])
    assert left.dtype == torch.int64
    torch.testing.assert_close(left.double() * 2.0**-24, torch.full((3,), 0.2).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(right.double() * 2.0**-24, torch.tensor([0.4]).double(), rtol=1e-6, atol=0)


def test_a_large_gradient_keeps_its_direction_and_has_the_clip_as_its_norm_over_all_tensors() -> None:
    grid = Grid(0.5, 0.5)
    left, right = grid.sum_clipped([torch.tensor([[30.0, 0.0]]), torch.tensor([[40.0]])])
    torch.testing.assert_close(
        left.double() * grid.step, torch.tensor([0.3, 0.0]).double(), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(right.double() * grid.step, torch.tensor([0.4]).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("numbers", [1, 2, 3, 768, 36_864])
def test_no_units_norm_is_above_the_clip_in_exact_arithmetic(numbers: int) -> None:
    chance = torch.Generator().manual_seed(numbers)
    for size in (1e-20, 1e-3, 1.0, 1e3, 1e25, 1e30):
        row = size * torch.randn(1, numbers, generator=chance)
        (whole,) = GRID.sum_clipped([row])
        assert square(whole) <= (Fraction(CLIP) / Fraction(GRID.step)) ** 2
    alike = torch.full((1, numbers), 1e4)  # every rounding goes the same way
    (whole,) = GRID.sum_clipped([alike])
    exact = float(CLIP / GRID.step) / math.sqrt(numbers)
    assert exact - 1 - 1e-6 * exact < int(whole[0]) <= exact


def test_adding_or_removing_any_unit_changes_the_sum_by_the_clip_at_most_to_the_bit() -> None:
    limit = (Fraction(CLIP) / Fraction(GRID.step)) ** 2
    for seed in range(25):
        gradients = heavy(40, seed)
        whole = flat(GRID.sum_clipped(gradients))
        for left_out in range(40):
            kept = [i for i in range(40) if i != left_out]
            without = flat(GRID.sum_clipped([gradient[kept] for gradient in gradients]))
            assert 0 < square(whole - without) <= limit


def test_a_sum_does_not_depend_on_order_or_on_how_it_is_split() -> None:
    gradients = heavy(40)
    whole = flat(GRID.sum_clipped(gradients))
    order = torch.randperm(40)
    assert torch.equal(flat(GRID.sum_clipped([gradient[order] for gradient in gradients])), whole)
    parts = [flat(GRID.sum_clipped([gradient[i : i + 7] for gradient in gradients])) for i in range(0, 40, 7)]
    assert torch.equal(torch.stack(parts).sum(0), whole)


@pytest.mark.parametrize("fault", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_adds_nothing(fault: float) -> None:
    gradients = heavy(6)
    due = flat(GRID.sum_clipped([gradient[1:] for gradient in gradients]))
    gradients[1][0, 2] = fault
    assert torch.equal(flat(GRID.sum_clipped(gradients)), due)


def test_nobody_makes_a_sum_of_nothing() -> None:
    left, right = GRID.sum_clipped([torch.zeros(0, 3, 4), torch.zeros(0, 5)])
    assert (left.shape, right.shape) == ((3, 4), (5,))
    assert not left.any()
    assert left.dtype == torch.int64


def test_noise_of_the_standard_deviation_asked_for_is_added_to_every_number() -> None:
    grid = Grid(0.3, 0.7)
    sums = [torch.full((300, 300), 12345), torch.full((500,), -12345)]
    left, right = grid.hide(sums, SecureNoise())
    assert left.dtype == torch.float64
    assert abs(left.mean() - 12345 * grid.step) < 0.02
    assert abs(left.std() - 0.7) < 0.02
    assert abs(right.std() - 0.7) < 0.15
    assert len(left.unique()) > 80_000
    steps = left / grid.step
    assert torch.equal(steps, steps.round())


def test_at_the_level_of_sites_fp32_holds_a_noised_number_as_it_is() -> None:
    for clip, std in [(1.0, 1.0), (1.9, 0.01), (0.01, 1.9)]:
        grid = Grid(clip, std, EXACT_IN_FP32)
        farthest = clip + 15 * std  # farther out is a Gaussian once in 10^50
        assert farthest / grid.step < 2**24
        assert std >= LEAST_NOISE * grid.step
        (hidden,) = grid.hide(grid.sum_clipped([torch.randn(1, 5000)]), SecureNoise())
        assert torch.equal(hidden.float().double(), hidden)

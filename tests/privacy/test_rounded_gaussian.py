"""Rounded Gaussians: their law to the last bit, also far out, and the error that float64 is trusted with."""

import math
import os

import mpmath
import numpy as np
import pytest
from scipy import stats

from fedllm.privacy import rounded_gaussian
from fedllm.privacy.rounded_gaussian import TRUSTED, Words, error, rounded_gaussians, settle

_RARE = 1e-6  # a sound source fails a test of this level once in a million runs
_MANY = 200_000
FULL = 1 << 64


def chance(count: int) -> Words:
    return np.frombuffer(os.urandom(8 * count), dtype=np.uint64)


class Script:
    """Words that are given one after the other, then random ones."""

    def __init__(self, *words: int) -> None:
        self.words = list(words)

    def __call__(self, count: int) -> Words:
        given, self.words = self.words[:count], self.words[count:]
        return np.concatenate([np.array(given, dtype=np.uint64), chance(count - len(given))])


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_each_whole_number_is_as_likely_as_the_gaussian_is_to_round_to_it(scale: float) -> None:
    drawn = rounded_gaussians(_MANY, scale, chance)
    edges = np.arange(-math.ceil(4 * scale), math.ceil(4 * scale) + 1) + 0.5
    due = np.diff(stats.norm.cdf(np.concatenate([[-np.inf], edges, [np.inf]]) / scale)) * _MANY
    found = np.histogram(drawn, np.concatenate([[-np.inf], edges, [np.inf]]))[0]
    often = due > 5
    found, due = ([*each[often], each[~often].sum()] for each in (found, due))
    assert stats.chisquare(found, due).pvalue > _RARE


@pytest.mark.parametrize("scale", [2.0**18, 1.7 * 2.0**24])
def test_on_a_fine_grid_they_are_gaussians(scale: float) -> None:
    drawn = rounded_gaussians(_MANY, scale, chance)
    assert drawn.dtype == np.int64
    assert stats.kstest(drawn / scale, stats.norm.cdf).pvalue > _RARE
    low = (drawn & 1).sum()
    assert stats.binomtest(int(low), _MANY).pvalue > _RARE
    half = _MANY // 2
    assert abs(np.corrcoef(drawn[:half], drawn[half:])[0, 1]) < 6 / half**0.5


def test_nothing_is_drawn_for_nothing_and_an_odd_count_is_kept() -> None:
    assert rounded_gaussians(0, 1.0, chance).shape == (0,)
    assert rounded_gaussians(20_001, 1.0, chance).shape == (20_001,)
    assert not rounded_gaussians(5, 0.0, chance).any()
    for wrong in (-1.0, 2.0**41, math.nan, math.inf):
        with pytest.raises(ValueError, match="scale"):
            rounded_gaussians(5, wrong, chance)


def ideal(first: int, second: int, scale: float) -> list[float]:
    """The pair that the middle of both words' intervals makes, with 100 digits."""
    with mpmath.workdps(100):
        radius = mpmath.sqrt(-2 * mpmath.log((mpmath.mpf(first) + 0.5) / FULL))
        angle = 2 * mpmath.pi * (mpmath.mpf(second) + 0.5) / FULL
        return [scale * radius * mpmath.cos(angle), scale * radius * mpmath.sin(angle)]


EXTREMES = [0, 1, 2**45 - 1, 2**45, 2**53 + 1, 2**62 - 1, 2**62, 2**63, 2**63 + 1, FULL - 2**50, FULL - 1]


def test_float64_is_nearer_to_the_ideal_than_its_bound_says_by_far() -> None:
    rng = np.random.default_rng(1)
    words = [int(word) for word in rng.integers(2**45, FULL, 1000, dtype=np.uint64)]
    pairs = list(zip(words[::2], words[1::2], strict=True))
    pairs += [(first, second) for first in EXTREMES for second in EXTREMES]
    worst = 0.0
    for first, second in pairs:
        radius = np.sqrt(-2.0 * np.log(np.float64(first) * 2.0**-64)) if first else 0.0
        if first < 2**45 or radius < 2.0**-8:
            continue  # never decided by float64
        angle = np.float64(second) * (2 * math.pi * 2.0**-64)
        bound = float(error(radius, 1.0))
        exact = ideal(first, second, 1.0)
        for mine, due in zip((radius * np.cos(angle), radius * np.sin(angle)), exact, strict=True):
            worst = max(worst, abs(float(mpmath.mpf(float(mine)) - due)) / bound)
    assert 0 < worst < 0.25


@pytest.mark.parametrize("name", ["log", "cos", "sin"])
def test_the_library_is_as_exact_as_it_is_trusted_to_be(name: str) -> None:
    rng = np.random.default_rng(2)
    arguments = rng.random(2000) if name == "log" else 2 * math.pi * rng.random(2000)
    found = getattr(np, name)(arguments)  # as an array: the vectorised function is another one
    with mpmath.workdps(60):
        due = [getattr(mpmath, name)(mpmath.mpf(float(argument))) for argument in arguments]
        both = zip(found, due, strict=True)
        worst = max(abs(mpmath.mpf(float(mine)) - other) / abs(other) for mine, other in both)
    assert worst < TRUSTED / 8


def test_what_float64_decides_interval_arithmetic_decides_likewise() -> None:
    scale = 1.9 * 2.0**24
    words = chance(2000)
    script = Script(*map(int, words))
    drawn = rounded_gaussians(2000, scale, script).reshape(2, 1000)
    first, second = words[:1000], words[1000:]
    for pair in range(0, 1000, 5):
        assert settle(int(first[pair]), int(second[pair]), scale, chance) == tuple(drawn[:, pair])


def test_where_float64_cannot_decide_further_bits_do(monkeypatch: pytest.MonkeyPatch) -> None:
    settled = []

    def counted(first: int, second: int, scale: float, words: rounded_gaussian.Drawn) -> tuple[int, int]:
        found = settle(first, second, scale, words)
        settled.append((first, second, found))
        return found

    monkeypatch.setattr(rounded_gaussian, "settle", counted)
    scale = 2.0**40  # a bound of a quarter of a step
    drawn = rounded_gaussians(600, scale, chance)
    assert len(settled) > 100
    assert stats.kstest(drawn / scale, stats.norm.cdf).pvalue > _RARE
    for first, second, found in settled[:50]:
        # 64 bits leave less than the ideal's own width open.
        for mine, due in zip(found, ideal(first, second, scale), strict=True):
            assert abs(mine - due) <= 0.5 + 2 * float(error(np.sqrt(-2 * np.log(first / FULL)), scale))


def test_an_undecided_pair_depends_on_bits_that_were_not_drawn_at_first() -> None:
    # Twenty bits of a radius are not enough for forty of a number: the next word decides.
    found = {settle(2**20, 2**61, 2.0**40, Script(word, word)) for word in range(0, FULL, FULL // 8)}
    assert len(found) == 8


def test_no_number_is_too_far_out_to_be_drawn() -> None:
    assert 9 < settle(5, 0, 2.0**24, chance)[0] / 2**24 < 9.5
    # The uniform of the radius begins with 255 zeros and a one; what follows is random.
    far = settle(0, 0, 2.0**24, Script(0, 0, 0, 0, 1, 0))[0] / 2**24
    assert math.sqrt(2 * 255 * math.log(2)) <= far <= math.sqrt(2 * 256 * math.log(2))


def test_a_word_for_which_the_radius_is_zero_is_settled_as_well() -> None:
    drawn = rounded_gaussians(2, 2.0**24, Script(FULL - 1, 0))
    assert abs(drawn[0]) < 2**24 * 2.0**-8

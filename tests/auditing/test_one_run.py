"""The one-run bound against printed values, exact arithmetic and mechanisms whose epsilon is known."""

import doctest
import math
from fractions import Fraction

import numpy as np
import pytest

from fedllm.auditing import one_run
from fedllm.auditing.one_run import audit_one_run, canaries_needed, chance_of, guess, lower_bound


def test_the_examples_in_its_prose_hold() -> None:
    found = doctest.testmod(one_run)
    assert (found.attempted, found.failed) == (3, 0)


@pytest.mark.parametrize(
    ("canaries", "guesses", "right", "delta", "printed"),
    [
        (1000, 100, 75, 1e-4, 0.673),  # arXiv 2305.08846v1, appendix D
        (100_000, 1510, 1439, 1e-5, 2.675),  # section 7: printed without rounding up
    ],
)
def test_the_bound_is_what_the_paper_prints(
    canaries: int, guesses: int, right: int, delta: float, printed: float
) -> None:
    assert lower_bound(canaries, guesses, right, delta) == pytest.approx(printed, abs=1e-3)


@pytest.mark.parametrize(("canaries", "guesses", "right"), [(5, 5, 4), (12, 9, 8), (20, 20, 20), (7, 3, 0)])
@pytest.mark.parametrize(("odds", "delta"), [(3, Fraction(1, 100)), (1, Fraction(0)), (9, Fraction(1, 1000))])
def test_the_chance_is_the_theorems_in_exact_arithmetic(
    canaries: int, guesses: int, right: int, odds: int, delta: Fraction
) -> None:
    chance = Fraction(odds, odds + 1)  # e^ε is `odds`
    weight = [math.comb(guesses, k) * chance**k * (1 - chance) ** (guesses - k) for k in range(guesses + 1)]
    slack = max(sum(weight[max(0, right - i) : right]) / i for i in range(1, canaries + 1))
    exact = min(Fraction(1), sum(weight[right:]) + 2 * canaries * delta * slack)
    found = chance_of(canaries, guesses, right, math.log(odds), float(delta))
    assert found == pytest.approx(float(exact), rel=1e-9)


def test_randomised_response_is_bounded_below_its_epsilon_as_often_as_is_promised() -> None:
    chance = np.random.default_rng(1)
    epsilon, runs, canaries = 1.0, 2000, 200
    bounds = {right: lower_bound(canaries, canaries, right, 0.0) for right in range(canaries + 1)}
    told = chance.binomial(canaries, 1 / (1 + math.exp(-epsilon)), size=runs)
    above = sum(bounds[int(right)] > epsilon for right in told)
    assert 0.02 * runs < above < 0.055 * runs  # at most 5 %, and not idle


def test_a_mechanism_that_uses_up_its_delta_is_not_refuted_too_often() -> None:
    # With chance delta it names all coins, else it answers at random: (0, delta)-DP.
    chance = np.random.default_rng(2)
    delta, canaries, runs = 0.04, 30, 4000
    named = chance.random(runs) < delta
    right = np.where(named, canaries, chance.binomial(canaries, 0.5, size=runs))
    bounds = {v: lower_bound(canaries, canaries, v, delta) for v in range(canaries + 1)}
    assert np.mean([bounds[int(v)] > 0 for v in right]) <= 0.05
    without = {v: lower_bound(canaries, canaries, v, 0.0) for v in range(canaries + 1)}
    assert np.mean([without[int(v)] > 0 for v in right]) > 0.05  # forgetting delta would refute it


def test_a_bound_grows_with_right_guesses_and_with_abstaining_from_wrong_ones() -> None:
    bounds = [lower_bound(256, 128, right, 1e-5) for right in range(64, 129, 8)]
    assert bounds == sorted(bounds)
    assert lower_bound(256, 128, 120, 1e-5) > lower_bound(256, 256, 192, 1e-5)


def test_half_right_proves_nothing() -> None:
    assert lower_bound(256, 256, 128, 1e-5) == 0.0
    assert lower_bound(0, 0, 0, 1e-5) == 0.0


def test_more_right_than_guessed_cannot_be() -> None:
    with pytest.raises(ValueError, match="cannot be"):
        lower_bound(10, 5, 6, 0.0)


def test_the_canaries_needed_are_the_fewest() -> None:
    for epsilon in (0.5, 1.0, 3.0):
        count = canaries_needed(epsilon, 1e-5)
        assert count is not None
        assert lower_bound(count, count, count, 1e-5) > epsilon
        assert lower_bound(count - 1, count - 1, count - 1, 1e-5) <= epsilon


def test_no_number_of_canaries_refutes_what_delta_explains() -> None:
    assert canaries_needed(9.0, 1e-5) is None


def test_the_highest_are_guessed_in_the_lowest_out_and_the_middle_is_left() -> None:
    assert guess([5.0, -1.0, 0.1, 0.2, 9.0, -3.0], 4).tolist() == [1, -1, 0, 0, 1, -1]
    assert guess([1.0, float("nan"), -1.0, 2.0, -2.0], 4).tolist() == [1, 0, -1, 1, -1]


def test_a_claim_that_is_refuted_is_a_violation() -> None:
    included = [number % 2 == 0 for number in range(64)]
    told = audit_one_run([float(one) for one in included], included, guesses=64, claim=1.0, delta=1e-5)
    assert (told.verdict, told.right) == ("violation", 64)
    assert told.lower_bound == pytest.approx(3.04, abs=0.01)
    assert "violation" in told.words


def test_a_claim_that_holds_is_never_called_measured() -> None:
    included = [number % 2 == 0 for number in range(256)]
    told = audit_one_run([0.0] * 256, included, guesses=128, claim=1.0, delta=1e-5)
    assert told.verdict == "no violation found"
    assert "lower bound, no violation found" in told.words
    assert "measured" not in told.words


def test_too_few_canaries_are_insufficient_power_and_no_pass() -> None:
    included = [number % 2 == 0 for number in range(256)]
    told = audit_one_run([float(one) for one in included], included, guesses=128, claim=8.0, delta=1e-5)
    assert told.verdict == "insufficient power"
    assert "12977" in told.words
    assert "no violation" not in told.words

"""Intervals against published values and independent implementations."""

import math

import pytest

from fedllm.training.intervals import Pairs, count_pairs, mcnemar, paired, paired_mean, unpaired

# Newcombe 1998, Statistics in Medicine 17:873-890, table II, method 10.
PUBLISHED = [
    ((56, 70, 48, 80), (0.0524, 0.3339)),
    ((9, 10, 3, 10), (0.1705, 0.8090)),
    ((6, 7, 2, 7), (0.0582, 0.8062)),
    ((5, 56, 0, 29), (-0.0381, 0.1926)),
    ((0, 10, 0, 20), (-0.1611, 0.2775)),
    ((0, 10, 0, 10), (-0.2775, 0.2775)),
    ((10, 10, 0, 20), (0.6791, 1.0)),
    ((10, 10, 0, 10), (0.6075, 1.0)),
]


@pytest.mark.parametrize(("counts", "interval"), PUBLISHED)
def test_unpaired_is_newcombes_method_10(
    counts: tuple[int, int, int, int], interval: tuple[float, float]
) -> None:
    found = unpaired(*counts)
    assert (round(found.low, 4), round(found.high, 4)) == interval


def test_paired_is_newcombes_method_10_for_pairs() -> None:
    # Cavo et al. 2012 in Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables, table 8.
    found = paired(Pairs(59, 6, 16, 80))
    assert [round(x, 4) for x in (found.value, found.low, found.high)] == [-0.0621, -0.1186, -0.0046]


def test_a_strong_agreement_is_corrected_for_continuity() -> None:
    # By hand, n = 20: p = 10/20, q = 9/20, phi = (9·10 - 1·0 - n/2) / √(10·10·9·11).
    pairs = Pairs(both=9, first=1, second=0, none=10)
    z = 1.959963984540054

    def wilson(x: int, n: int) -> tuple[float, float]:
        centre, reach = x + z * z / 2, z * math.sqrt(x * (n - x) / n + z * z / 4)
        return (centre - reach) / (n + z * z), (centre + reach) / (n + z * z)

    (l1, u1), (l2, u2) = wilson(10, 20), wilson(9, 20)
    phi = (9 * 10 - 10) / math.sqrt(10 * 10 * 9 * 11)
    low = 0.05 - math.sqrt((0.5 - l1) ** 2 - 2 * phi * (0.5 - l1) * (u2 - 0.45) + (u2 - 0.45) ** 2)
    high = 0.05 + math.sqrt((0.45 - l2) ** 2 - 2 * phi * (0.45 - l2) * (u1 - 0.5) + (u1 - 0.5) ** 2)
    found = paired(pairs)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize(
    "pairs", [Pairs(7, 5, 2, 6), Pairs(30, 0, 0, 0), Pairs(0, 0, 9, 0), Pairs(1, 1, 7, 12)]
)
def test_swapping_the_models_turns_the_interval_around(pairs: Pairs) -> None:
    there = paired(pairs)
    back = paired(Pairs(pairs.both, pairs.second, pairs.first, pairs.none))
    assert (-back.high, -back.value, -back.low) == pytest.approx((there.low, there.value, there.high))
    assert -1 <= there.low <= there.value <= there.high <= 1


def test_pairs_tell_more_than_two_shares() -> None:
    alone, together = unpaired(340, 400, 332, 400), paired(Pairs(330, 10, 2, 58))
    assert together.value == pytest.approx(alone.value)
    assert together.low > 0 > alone.low


def test_models_that_never_differ_are_not_known_to_be_equal() -> None:
    found = paired(Pairs(25, 0, 0, 5))
    assert found.low < 0 < found.high


@pytest.mark.parametrize(
    ("pairs", "p"),
    [
        (Pairs(1, 1, 7, 12), 18 / 256),  # Bentur et al. 2009: 2·(C(8,0) + C(8,1)) / 2^8
        (Pairs(59, 6, 16, 80), 2 * sum(math.comb(22, k) for k in range(7)) / 2**22),
        (Pairs(9, 3, 3, 9), 1.0),
        (Pairs(9, 0, 0, 9), 1.0),
    ],
)
def test_mcnemar_is_the_exact_binomial_test(pairs: Pairs, p: float) -> None:
    assert mcnemar(pairs) == pytest.approx(p)


def test_pairs_are_counted_record_by_record() -> None:
    found = count_pairs([True, True, False, False, True], [True, False, True, False, True])
    assert found == Pairs(both=2, first=1, second=1, none=1)
    with pytest.raises(ValueError, match="zip"):
        count_pairs([True], [True, False])


def test_paired_losses_have_students_interval() -> None:
    # Student 1908: hours of sleep gained by two drugs, ten patients; R's t.test gives 0.7001 to 2.4599.
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = paired_mean([b - a for a, b in zip(first, second, strict=True)])
    assert (found.value, found.low, found.high) == pytest.approx((1.58, 0.7001142, 2.4598858))
    assert paired_mean([0.3]).high == math.inf

"""What a site's word about its size can win."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedllm.aggregation.weights import capped

BILLION = 10**9


def share(weights: dict[str, int], *sites: str) -> Fraction:
    return Fraction(sum(weights[site] for site in sites), sum(weights.values()))


def test_a_liar_among_two_weighs_half() -> None:
    assert capped({"honest": 100, "liar": BILLION}, 1.5) == {"honest": 100, "liar": 100}


@pytest.mark.parametrize("sites", [4, 10, 101])
def test_liars_that_are_half_weigh_their_bound_and_no_more(sites: int) -> None:
    told = {f"s{at:03}": BILLION if at % 2 else 100 + at for at in range(sites)}
    liars = [site for site, count in told.items() if count == BILLION]
    most = Fraction(3, 2) * len(liars) / sites
    assert most - Fraction(1, 50) < share(capped(told, 1.5), *liars) <= most


def test_counts_within_their_share_are_as_told() -> None:
    told = {"a": 100, "b": 130, "c": 80, "d": 110}
    assert capped(told, 1.5) == told


def test_a_single_site_weighs_what_it_told() -> None:
    assert capped({"alone": 7}, 1.5) == {"alone": 7}


def test_one_large_site_is_lowered_to_its_share_and_the_others_are_left() -> None:
    assert capped({"a": 2477, "m": 9570, "n": 2431, "t": 2932}, 1.5) == {
        "a": 2477,
        "m": 4704,  # 3/8 of the whole: 0.375 · 7840 / 0.625
        "n": 2431,
        "t": 2932,
    }


@given(
    st.lists(st.one_of(st.integers(1, 50), st.integers(1, 10**15)), min_size=1, max_size=40),
    st.floats(1, 100, allow_nan=False),
)
def test_nobody_is_above_the_share_and_no_smaller_bound_would_do(counts: list[int], cap: float) -> None:
    told = {f"s{at:02}": count for at, count in enumerate(counts)}
    weights = capped(told, cap)
    bound = max(Fraction(1, len(told)), min(Fraction(1, 2), Fraction(cap) / len(told)))
    assert all(1 <= weights[site] <= told[site] for site in told)
    assert all(share(weights, site) <= bound for site in told)
    lowered = [site for site in told if weights[site] < told[site]]
    assert len({weights[site] for site in lowered}) <= 1
    if lowered:  # one more for each of them, and it is too much
        more = weights | {site: weights[site] + 1 for site in lowered}
        assert share(more, lowered[0]) > bound

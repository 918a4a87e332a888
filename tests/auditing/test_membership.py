"""The membership report: a heuristic with its counts and its interval."""

import numpy as np
import pytest
from scipy.stats import binomtest

from fedllm.auditing.membership import exact_interval, membership


def test_members_that_stand_out_are_found() -> None:
    report = membership([5.0] * 30 + [0.0] * 70, list(np.linspace(-1, 1, 200)))
    assert report.tpr == 0.3
    assert report.fpr == 0.01
    assert report.kind == "heuristic"


def test_no_more_than_one_percent_of_the_others_are_called_members() -> None:
    chance = np.random.default_rng(3)
    for count in (100, 199, 1000):
        report = membership(chance.normal(size=50).tolist(), chance.normal(size=count).tolist())
        assert report.fpr is not None
        assert report.fpr <= 0.01


def test_equal_scores_give_nobody_away() -> None:
    report = membership([1.0] * 100, [1.0] * 100)
    assert (report.tpr, report.fpr, report.auc) == (0.0, 0.0, 0.5)


def test_guessing_finds_about_one_percent() -> None:
    chance = np.random.default_rng(4)
    report = membership(chance.normal(size=20_000).tolist(), chance.normal(size=20_000).tolist())
    assert report.tpr == pytest.approx(0.01, abs=0.003)
    assert report.auc == pytest.approx(0.5, abs=0.01)


def test_the_area_is_that_of_all_pairs() -> None:
    chance = np.random.default_rng(5)
    inside, outside = chance.integers(0, 5, 40).tolist(), chance.integers(0, 5, 120).tolist()
    pairs = [(one > other) + 0.5 * (one == other) for one in inside for other in outside]
    assert membership(inside, outside).auc == pytest.approx(sum(pairs) / len(pairs))


@pytest.mark.parametrize(("found", "count"), [(0, 40), (3, 40), (40, 40)])
def test_the_interval_is_the_exact_one(found: int, count: int) -> None:
    told = binomtest(found, count).proportion_ci(0.95, method="exact")
    assert exact_interval(found, count) == pytest.approx((told.low, told.high))


def test_too_few_others_make_no_report() -> None:
    report = membership([1.0] * 50, [0.0] * 99)
    assert report.tpr is None
    assert "too few records" in report.words
    assert "heuristic" in report.words


def test_every_form_of_the_report_says_that_it_is_a_heuristic() -> None:
    report = membership([1.0] * 50, [0.0] * 100)
    assert report.words.startswith("heuristic")
    assert report.public_json() == {
        "tpr_at_1_percent_fpr": 1.0,
        "interval": [pytest.approx(0.9289, abs=1e-4), 1.0],  # 0.025 ** (1 / 50)
        "fpr": 0.0,
        "auc": 1.0,
        "members": 50,
        "non_members": 100,
        "kind": "heuristic",
    }

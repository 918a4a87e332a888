"""What a training would spend, against dp-accounting itself and against drawn noise."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant

from fedllm.config import FederationConfig
from fedllm.errors import ConfigError
from fedllm.privacy.configured import resolve
from fedllm.privacy.plan_report import as_json, write_report
from fedllm.privacy.planning import MOST_POINTS, plan

SITES = ("amazon", "movies", "nyt")


def config(*, rounds: int = 3, steps: int = 16, min_sites: int = 2, **privacy: Any) -> FederationConfig:  # noqa: ANN401 - any setting
    record = {"unit": "record", "epsilon": 8.0, "clip": 0.5, "sampling_rate": 0.02}
    return FederationConfig.model_validate(
        {
            "name": "planned",
            "task": {"kind": "text"},
            "rounds": {"max": rounds, "min_sites": min_sites},
            "local": {"steps": steps, "batch_size": 64},
            "privacy": record | privacy,
        }
    )


def site_level(*, rounds: int = 20, **privacy: Any) -> FederationConfig:  # noqa: ANN401 - any setting
    return config(rounds=rounds, **({"unit": "site", "sampling_rate": None, "epsilon": 3.0} | privacy))


def by_dp_accounting(q: float, sigma: float, steps: int, delta: float) -> float:
    step = dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(sigma))
    accountant = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, 3e-4)
    return float(accountant.compose(step, steps).get_epsilon(delta))


def test_auto_noise_spends_the_budget_over_all_rounds_and_no_more() -> None:
    planned = plan(config(), SITES)
    (site, *_) = planned.sites
    assert site.steps == 48
    spent = by_dp_accounting(0.02, site.noise_multiplier, 48, 1e-5)
    assert planned.epsilon == pytest.approx(spent, rel=1e-3)
    assert 0.99 * 8.0 < planned.epsilon <= 8.0


def test_epsilon_by_round_is_composed_from_the_first_round_on() -> None:
    planned = plan(config(), SITES)
    sigma = planned.sites[0].noise_multiplier
    expected = [by_dp_accounting(0.02, sigma, 16 * number, 1e-5) for number in (1, 2, 3)]
    assert [number for number, _ in planned.by_round] == [1, 2, 3]
    assert [spent for _, spent in planned.by_round] == pytest.approx(expected, rel=1e-3)


def test_of_many_rounds_some_are_told_among_them_the_first_and_the_last() -> None:
    assert [number for number, _ in plan(site_level(), SITES).by_round] == list(range(1, 21))
    many = plan(site_level(rounds=1000), ["one"]).by_round
    assert len(many) == MOST_POINTS
    assert (many[0][0], many[-1][0]) == (1, 1000)
    assert all(a < b for (_, a), (_, b) in itertools.pairwise(many))


def test_a_site_with_its_own_rate_gets_its_own_noise_and_is_listed() -> None:
    planned = plan(config(sites={"amazon": {"sampling_rate": 0.05}}), SITES)
    noise = {site.site: site.noise_multiplier for site in planned.sites}
    assert noise["amazon"] > noise["movies"] == noise["nyt"]
    told = as_json(planned)
    assert list(told["sites"]) == ["amazon"]
    assert told["sites"]["amazon"]["sampling_rate"] == 0.05
    assert told["sampling_rate"] == 0.02
    assert told["noise_multiplier"] == noise["movies"]
    assert told["epsilon"] == max(site.epsilon for site in planned.sites)


def test_resolve_is_the_whole_training_of_a_site() -> None:
    asked = config(noise_multiplier=2.0, sites={"nyt": {"sampling_rate": 0.01, "noise_multiplier": 3.0}})
    whole = resolve(asked)
    assert (whole.sampling_rate, whole.noise_multiplier, whole.steps) == (0.02, 2.0, 48)
    mine = resolve(asked, "nyt")
    assert (mine.sampling_rate, mine.noise_multiplier, mine.steps) == (0.01, 3.0, 48)
    assert resolve(asked, "amazon") == whole


def test_noise_that_overspends_is_refused_with_the_noise_that_does_not() -> None:
    with pytest.raises(ConfigError, match=r"privacy\.noise_multiplier 0\.4 spends epsilon 14") as told:
        resolve(config(noise_multiplier=0.4))
    assert "\n" not in str(told.value)
    enough = float(str(told.value).split("take ")[1].split(",")[0])
    assert resolve(config(noise_multiplier=enough)).noise_multiplier == enough


def test_a_site_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"privacy\.sites names moovies"):
        plan(config(sites={"moovies": {"sampling_rate": 0.05}}), SITES)


def test_site_level_needs_the_noise_that_is_known_and_takes_a_step_a_round() -> None:
    # sigma 4.6 for epsilon 3 over 20 rounds at delta 1e-3.
    whole = resolve(site_level(delta=1e-3))
    assert (whole.sampling_rate, whole.steps) == (1.0, 20)
    assert whole.noise_multiplier == pytest.approx(4.6, abs=0.05)


def test_site_level_with_few_sites_says_that_the_model_is_destroyed_and_what_helps() -> None:
    snr = plan(site_level(), SITES, size=184_320).snr
    assert snr is not None
    assert "destroys the model" in snr.verdict
    assert "unit record" in snr.verdict
    many = plan(site_level(), [f"s{i}" for i in range(20_000)], size=1000).snr
    assert many is not None
    assert "destroys" not in many.verdict


def test_the_record_level_ratio_is_that_of_drawn_noise_and_aligned_gradients() -> None:
    planned = plan(config(noise_multiplier=1.5, rounds=2, steps=10), SITES, size=400)
    assert planned.snr is not None
    rng = np.random.default_rng(7)
    direction = rng.normal(size=400)
    direction /= np.linalg.norm(direction)
    clip, batch, sigma = 0.5, 64, 1.5
    noise = rng.normal(scale=sigma * clip, size=(len(SITES), 20, 400))  # (site, step, d)
    signal = np.broadcast_to(batch * clip * direction, noise.shape)
    one = np.linalg.norm(signal[0, 0]) / np.mean(np.linalg.norm(noise, axis=2))
    whole = np.linalg.norm(signal.sum((0, 1))) / np.linalg.norm(noise.sum((0, 1)))
    assert planned.snr.per_step == pytest.approx(one, rel=0.02)
    assert planned.snr.training == pytest.approx(whole, rel=0.1)


def test_the_site_level_ratio_is_that_of_shares_calibrated_to_the_fewest_survivors() -> None:
    planned = plan(site_level(min_honest=2), SITES, size=4000)
    assert planned.snr is not None
    sigma = planned.sites[0].noise_multiplier
    rng = np.random.default_rng(7)
    share = 0.5 * sigma / math.sqrt(2)  # clip sigma / sqrt(min_honest)
    noise = rng.normal(scale=share, size=(20, len(SITES), 4000)).sum(axis=1)  # (round, d)
    signal = len(SITES) * 0.5
    assert planned.snr.per_step == pytest.approx(signal / np.mean(np.linalg.norm(noise, axis=1)), rel=0.02)
    whole = 20 * signal / np.linalg.norm(noise.sum(axis=0))
    assert planned.snr.training == pytest.approx(whole, rel=0.05)
    assert np.linalg.norm(noise) >= sigma * 0.5 * math.sqrt(20 * 4000)  # three share, two would be enough


@pytest.mark.parametrize(
    ("size", "words"), [(100, "the data can move"), (10**7, "clearly worse"), (10**9, "destroys the model")]
)
def test_the_verdict_follows_the_ratio(size: int, words: str) -> None:
    snr = plan(config(epsilon=3.0), SITES, size=size).snr
    assert snr is not None
    assert words in snr.verdict


def test_without_dp_nothing_is_claimed_and_epsilon_is_never_zero(tmp_path: Path) -> None:
    planned = plan(config(unit="none"), SITES, size=100)
    told = write_report(planned, tmp_path)
    assert told["epsilon"] is None
    assert told["snr"] is None
    assert told["by_round"] == []
    assert told["trust_model"] == "no DP configured"
    with pytest.raises(ConfigError, match="no DP configured"):
        resolve(config(unit="none"))


def test_the_report_is_the_same_bytes_for_the_same_plan(tmp_path: Path) -> None:
    planned = plan(config(), SITES, size=100)
    for name in ("a", "b"):
        write_report(planned, tmp_path / name)
    for file in ("privacy_plan.json", "privacy_plan.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert json.loads((tmp_path / "a" / "privacy_plan.json").read_text()) == as_json(planned)

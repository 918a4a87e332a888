"""What an update's norm may be under DP: two computations of the bounds that docs/protocol.md gives."""

import itertools
from typing import Any

import pytest
from scipy.stats import chi2

from fedllm.auditing.noise import Trained, noise_check, noise_std, private_norm_bound
from fedllm.config import LocalConfig
from fedllm.privacy.accounting import Event, epsilon
from fedllm.protocol.terms import PrivacyPlan
from tests.protocol import independent_noise as noise
from tests.protocol.vector_private import messages

PLAN = messages()[0]["message"]
LOCALS: list[dict[str, Any]] = [
    {"optimizer": "sgd"},
    {"optimizer": "sgd", "schedule": "cosine", "warmup": 12},
    {"optimizer": "sgd", "schedule": "linear", "warmup": 3, "batch_size": 64},
    {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01},
    {"optimizer": "sgd", "algorithm": "fedprox", "prox_mu": 0.1},
    {"optimizer": "adamw", "weight_decay": 0.01},
]
PRIVACIES: list[dict[str, Any]] = [
    {},
    {"unit": "site", "unit_field": None, "sampling_rate": 1.0, "sites": {}, "min_honest": 3, "steps": 1},
]
CASES = [
    (local, privacy, site, steps, size)
    for local, privacy, site, (steps, size) in itertools.product(
        LOCALS, PRIVACIES, ("amazon", "movies"), ((1, 7), (10, 192), (4, 20_000))
    )
]


@pytest.mark.parametrize(("local", "privacy", "site", "steps", "size"), CASES)
def test_both_bound_a_norm_alike_from_above_and_from_below(
    local: dict[str, Any], privacy: dict[str, Any], site: str, steps: int, size: int
) -> None:
    plan = PLAN | {"local": PLAN["local"] | local, "privacy": PLAN["privacy"] | privacy}
    terms = PrivacyPlan.model_validate(plan["privacy"])
    trained = Trained(
        site=site,
        local=LocalConfig.model_validate(plan["local"]),
        steps=steps,
        size=size,
        model_norm=3.5,
        round=plan["round"],
        rounds=plan["rounds"],
        privacy=terms,
    )
    most = noise.largest_norm(plan, site, steps, size, 3.5)
    assert private_norm_bound(trained, terms) == pytest.approx(most, rel=1e-12)
    assert noise_std(trained, terms) == pytest.approx(noise.noise_std(plan, site, steps), rel=1e-12)
    least = noise.least_norm(plan, site, steps, size)
    if least is None:
        assert noise_check(most, trained, terms) == "not observable"
    else:
        assert noise_check(least * 1.0001, trained, terms) == "pass"
        assert noise_check(least * 0.9999, trained, terms) == "fail"


@pytest.mark.parametrize("freedom", [1, 2, 10, 192, 10_000])
def test_the_rare_chi_square_is_the_one_of_scipy(freedom: int) -> None:
    assert noise.rare_chi_square(freedom) == pytest.approx(chi2.ppf(1e-9, freedom), rel=1e-6)


@pytest.mark.parametrize(("sigma", "steps"), [(1.0, 1), (0.75, 2), (5.0, 100), (40.0, 10)])
def test_the_accountant_comes_to_the_closed_form_where_everybody_is_in_each_step(
    sigma: float, steps: int
) -> None:
    spent = epsilon([Event(1.0, sigma, steps)], 1e-5)
    assert spent == pytest.approx(noise.gaussian_epsilon(sigma, steps, 1e-5), rel=2e-3)

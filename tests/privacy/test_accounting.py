import doctest
import math
import subprocess
import sys
from pathlib import Path

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant, privacy_loss_distribution
from dp_accounting.rdp import RdpAccountant

import fedllm
from fedllm.errors import ConfigError
from fedllm.privacy import accounting
from fedllm.privacy.accounting import Event, epsilon, noise_multiplier

# A training whose owner changed both sampling rate and noise, twice.
CHANGING = [Event(0.05, 0.8, 60), Event(0.01, 1.0, 400), Event(1.0, 20.0, 3), Event(0.02, 1.3, 150)]
DELTA = 1e-5


@pytest.mark.parametrize(
    ("event", "delta", "expected"),
    [
        (Event(0.01, 1.0, 1000), 1e-5, 1.828),
        (Event(0.05, 0.8, 200), 1e-5, 7.70),
        (Event(1.0, 5.0, 50), 1e-3, 4.845),
    ],
)
def test_the_check_values_are_met_to_three_digits(event: Event, delta: float, expected: float) -> None:
    digits = 2 if expected == 7.70 else 3
    assert round(epsilon([event], delta), digits) == expected


def test_the_gaussian_without_sampling_meets_its_closed_form() -> None:
    # Balle & Wang 2018 (arXiv 1805.06530), theorem 8, solved for delta at the epsilon that was found.
    def phi(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    sigma, steps = 9.0, 30
    found = epsilon([Event(1.0, sigma, steps)], DELTA)
    mu = math.sqrt(steps) / sigma
    delta = phi(mu / 2 - found / mu) - math.exp(found) * phi(-mu / 2 - found / mu)
    assert delta == pytest.approx(DELTA, rel=1e-3)


def test_changing_rates_and_noise_agree_with_distributions_composed_by_hand() -> None:
    whole = None
    for event in CHANGING:
        one = privacy_loss_distribution.from_gaussian_mechanism(
            standard_deviation=event.noise_multiplier,
            sampling_prob=event.sampling_rate,
            value_discretization_interval=2e-4,
        ).self_compose(event.steps)
        whole = one if whole is None else whole.compose(one)
    assert epsilon(CHANGING, DELTA) == pytest.approx(whole.get_epsilon_for_delta(DELTA), rel=2e-4)


def renyi_epsilon(events: list[Event], delta: float) -> float:
    return accounting._renyi_epsilon(accounting._merged(events), delta)


def test_renyi_is_an_upper_bound_near_what_dp_accounting_says_with_all_its_orders() -> None:
    accountant = RdpAccountant()
    for event in CHANGING:
        step = dp_accounting.PoissonSampledDpEvent(
            event.sampling_rate, dp_accounting.GaussianDpEvent(event.noise_multiplier)
        )
        accountant.compose(dp_accounting.SelfComposedDpEvent(step, event.steps))
    best = accountant.get_epsilon(DELTA)
    assert best <= renyi_epsilon(CHANGING, DELTA) <= 1.1 * best
    assert epsilon(CHANGING, DELTA) < renyi_epsilon(CHANGING, DELTA)


def test_opacus_prv_accountant_agrees_within_its_error() -> None:
    from opacus.accountants import PRVAccountant

    error = 0.01
    prv = PRVAccountant()
    prv.history = [(event.noise_multiplier, event.sampling_rate, event.steps) for event in CHANGING]
    found = prv.get_epsilon(delta=DELTA, eps_error=error)  # its upper end: the estimate plus the error
    assert abs(epsilon(CHANGING, DELTA) - found) <= 2 * error


def test_rounds_are_composed_and_not_summed() -> None:
    # dp-accounting by itself: 20 rounds of 8 steps at delta 1e-4 spend 3.46, and 20 times one round 30.1.
    a_round = Event(0.02, 0.7, 8)
    assert 20 * epsilon([a_round], 1e-4) == pytest.approx(30.1, abs=0.05)
    assert epsilon([a_round] * 20, 1e-4) == pytest.approx(3.46, abs=0.01)


def test_the_adjacency_is_add_or_remove_which_spends_less_than_replacing() -> None:
    event = Event(0.05, 1.0, 200)
    step = dp_accounting.PoissonSampledDpEvent(0.05, dp_accounting.GaussianDpEvent(1.0))
    told = {}
    for relation in (
        dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
        dp_accounting.NeighboringRelation.REPLACE_ONE,
    ):
        told[relation] = PLDAccountant(relation, 1e-3).compose(step, event.steps).get_epsilon(DELTA)
    added, replaced = told.values()
    assert epsilon([event], DELTA) == pytest.approx(added, rel=1e-3)
    assert replaced > 1.2 * epsilon([event], DELTA)
    assert "add/remove" in accounting.ACCOUNTANT


def test_order_and_splitting_of_events_change_nothing() -> None:
    apart = [Event(0.05, 0.8, 1)] * 60 + CHANGING[1:][::-1]
    assert epsilon(apart, DELTA) == epsilon(CHANGING, DELTA)


def test_no_step_spends_nothing_and_a_step_without_noise_everything() -> None:
    assert epsilon([], DELTA) == 0.0
    assert epsilon([Event(0.01, 0.0, 0)], DELTA) == 0.0
    for told in (epsilon, renyi_epsilon):
        assert told([Event(0.01, 0.0, 1), Event(0.01, 1.0, 10)], DELTA) == math.inf


@pytest.mark.parametrize(
    ("event", "delta"),
    [(Event(0.001, 20.0, 10_000), 1e-5), (Event(0.01, 5.0, 1000), 1e-5), (Event(0.2, 8.0, 100), 1e-5)],
)
def test_a_small_epsilon_is_as_exact_as_a_large_one(event: Event, delta: float) -> None:
    # A fixed grid of 1e-3 says 0.059 where 0.0125 is right; the grid here is far finer than ours.
    one = privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=event.noise_multiplier,
        sampling_prob=event.sampling_rate,
        value_discretization_interval=epsilon([event], delta) / 100_000,
    )
    exact = one.self_compose(event.steps).get_epsilon_for_delta(delta)
    assert epsilon([event], delta) == pytest.approx(exact, rel=1e-3)


def test_many_rare_steps_are_followed_to_a_grid_that_is_fine_enough() -> None:
    # One step loses far less than a grid's interval: a grid four times coarser is 6e-4 off, the first 1.5e-2.
    event = Event(0.002, 0.6, 20_000)
    one = privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=0.6, sampling_prob=0.002, value_discretization_interval=1.5e-4
    )
    exact = one.self_compose(event.steps).get_epsilon_for_delta(DELTA)
    assert epsilon([event], DELTA) == pytest.approx(exact, rel=2e-4)


@pytest.mark.parametrize(
    ("asked", "delta", "rate", "steps"), [(8.0, 1e-5, 0.02, 48), (1.0, 1e-5, 0.2, 100), (3.0, 1e-3, 1.0, 20)]
)
def test_the_noise_found_is_the_least_of_four_digits_that_keeps_the_budget(
    asked: float, delta: float, rate: float, steps: int
) -> None:
    sigma = noise_multiplier(asked, delta, rate, steps)
    assert float(f"{sigma:.4g}") == sigma
    less = sigma - 10.0 ** (math.floor(math.log10(sigma)) - 3)
    assert epsilon([Event(rate, sigma, steps)], delta) <= asked < epsilon([Event(rate, less, steps)], delta)


def test_a_budget_that_no_noise_keeps_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match=r"no noise keeps .*raise privacy\.epsilon") as told:
        noise_multiplier(1e-9, 1e-5, 1.0, 10_000_000)
    assert "\n" not in str(told.value)


def test_a_budget_without_meaning_still_gets_some_noise() -> None:
    assert noise_multiplier(1e5, 1e-5, 1.0, 3) == 0.1


@pytest.mark.parametrize(
    "wrong", [(1.5, 1.0, 1), (-0.1, 1.0, 1), (math.nan, 1.0, 1), (0.1, math.nan, 1), (0.1, 1.0, -1)]
)
def test_what_is_no_event_is_refused(wrong: tuple[float, float, int]) -> None:
    with pytest.raises(ConfigError):
        Event(*wrong)


def test_the_numbers_in_the_docstring_are_right() -> None:
    assert doctest.testmod(accounting).failed == 0


def test_the_gdp_accountant_which_reads_the_last_event_alone_is_used_nowhere() -> None:
    root = Path(fedllm.__file__).parent
    for path in [*root.rglob("*.py"), *(root.parent / "flows").rglob("*.py")]:
        text = path.read_text()
        assert "GaussianAccountant" not in text, path
        assert "accountants" not in text, path  # nor any other of opacus' by name


@pytest.mark.servers
def test_accounting_is_imported_without_dp_accounting_which_takes_a_second() -> None:
    heavy = "{'dp_accounting', 'scipy', 'numpy'}"
    code = f"import fedllm.privacy.accounting, sys; assert not {heavy} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

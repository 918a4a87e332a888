"""Enforce a data set's budget over all its trainings.

The trainings reserved before the data set's first charge (usually one) are its founders. Their q, sigma and
steps were chosen before anything about the data was released, so their privacy loss is one fixed
distribution, and PLD bounds a single founder tightly. Stopping early only reveals less.

A later training may be chosen after seeing what earlier ones released, which plain composition does not
cover. A Rényi filter does (Feldman & Zrnic 2021, arXiv 2008.11193, theorem 3.1): at ONE order, fixed
beforehand, the Rényi divergences of all events add up, however they were chosen, and must stay below what
(epsilon, delta) allows. A filter that picks the best order at every moment (Lécuyer 2021, arXiv 2103.01379)
allows a few per cent more, but its order depends on what was released. Here the order depends only on the
first founder and the limits: it is the one at which most repeats of that training fit.

Using one rule for founders and another for the rest is sound because they never mix: if the founders as
planned exceed the filter, no later training ever passes, however early they stopped. So either there are only
founders, or everything is within the filter from the first step. An owner who raises the limits after seeing
results leaves this guarantee, as with every budget.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from fedllm.errors import BudgetError
from fedllm.privacy.accounting import Event, epsilon
from fedllm.protocol.terms import rounded_up

# The RDP of the sampled Gaussian converges from 2 on; more orders gain almost nothing.
ORDERS = (2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 128)
MOST_STEPS = 2**40


@dataclass(frozen=True)
class Limits:
    """A site's limits for a data set, over all trainings and federations."""

    total_epsilon: float | None  # None: no limit
    delta: float


def refuse_overspend(
    dataset: str, founders: Sequence[Event], committed: Sequence[Event], requested: Event, limits: Limits
) -> None:
    """Refuse a training that exceeds the budget left by a data set's commitments.

    Args:
        dataset: name for the error message.
        founders: the trainings reserved before anything was charged, as planned, in order.
        committed: charges of settled trainings, and all reserved steps of open ones.
        requested: the whole new training.
        limits: of the data set.

    Raises:
        BudgetError: The message states what is spent, what is requested and the budget.
    """
    total, delta = limits.total_epsilon, limits.delta
    if requested.noise_multiplier == 0:
        raise BudgetError("a training without noise spends more than any budget")
    if total is None:
        return
    budget = f"the budget of {dataset} is epsilon {total:g} at delta {delta!r}"
    if not founders:
        if (alone := epsilon([requested], delta)) > total:
            raise BudgetError(
                f"nothing is spent, this training may spend epsilon {rounded_up(alone)}; {budget}"
            )
        return
    order = filter_order(founders[0], limits)
    planned = filter_epsilon(founders, order, delta)
    spent = filter_epsilon(committed, order, delta)
    after = filter_epsilon([*committed, requested], order, delta)
    if max(planned, after) > total:
        alone = epsilon([requested], delta)
        why = "" if after > total else f", and the first ones were planned for {rounded_up(planned)}"
        raise BudgetError(
            f"epsilon {rounded_up(spent)} is spent or promised, this training may spend {rounded_up(alone)}, "
            f"together {rounded_up(after)} by the Rényi filter{why}; {budget}"
        )


@cache
def filter_order(first: Event, limits: Limits) -> float:
    """Return the Rényi order at which most repeats of the first founder stay within the limits."""
    assert limits.total_epsilon is not None  # noqa: S101 - without a limit there is no filter
    fits, beyond = 1, 2
    while beyond < MOST_STEPS and _best(first, beyond, limits.delta)[0] <= limits.total_epsilon:
        fits, beyond = beyond, 2 * beyond
    while beyond - fits > max(1, fits // 64):  # the order hardly changes within 2 %
        middle = (fits + beyond) // 2
        if _best(first, middle, limits.delta)[0] <= limits.total_epsilon:
            fits = middle
        else:
            beyond = middle
    return _best(first, fits, limits.delta)[1]


def filter_epsilon(events: Iterable[Event], order: float, delta: float) -> float:
    """Return the epsilon at delta of adaptively chosen events, by Rényi divergence of one order.

    Conversion: Canonne, Kamath & Steinke 2020, proposition 12. Adding or removing one unit.
    """
    with_steps = [event for event in events if event.steps]
    if not with_steps:
        return 0.0
    return float(_accountant(with_steps, (order,)).get_epsilon(delta))


def _best(event: Event, steps: int, delta: float) -> tuple[float, float]:
    """Return the epsilon of `steps` steps, and the order that gives it."""
    repeated = Event(event.sampling_rate, event.noise_multiplier, steps)
    smallest, order = _accountant([repeated], ORDERS).get_epsilon_and_optimal_order(delta)
    return float(smallest), float(order)


def _accountant(events: Sequence[Event], orders: Sequence[float]) -> Any:  # noqa: ANN401 - dp-accounting has no types
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(list(orders))
    for event in events:
        step = dp_accounting.GaussianDpEvent(event.noise_multiplier)
        if event.sampling_rate < 1:
            step = dp_accounting.PoissonSampledDpEvent(event.sampling_rate, step)
        accountant.compose(dp_accounting.SelfComposedDpEvent(step, event.steps))
    return accountant

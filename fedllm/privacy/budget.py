"""A data set's budget over all its trainings.

What was promised before the data set's first charge (usually one training) is called its founders here.
Their q, sigma and steps were chosen before anything about the data was released, so that their privacy loss
is one fixed distribution, which PLD bounds tightly for a single one; stopping early only shows less of it.

Whoever chooses a later training may have seen what earlier ones released, and plain composition does not
cover that. A Rényi filter does (Feldman & Zrnic 2021, arXiv 2008.11193, theorem 3.1): at ONE order, fixed
beforehand, the Rényi divergences of all events add up, whichever were chosen, and stay below what (epsilon,
delta) allows. A filter in which every moment may pick the order that suits it best (Lécuyer 2021, arXiv
2103.01379) allows a few per cent more, but then the order depends on what was released; here it follows
from the first founder and the limits alone: the order at which most repeats of that training fit.

One rule for the founders and another for the rest is sound because they never mix: where the founders as
planned are beyond the filter by themselves, no later training ever passes, however early they stopped. So
either the founders are all there is, or everything is within the filter from the first step on. An owner
who raises the limits after seeing results steps outside of this, as with every budget.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from fedllm.errors import BudgetError
from fedllm.privacy.accounting import Event, epsilon
from fedllm.protocol.terms import rounded_up

# From 2 on, where the RDP of the sampled Gaussian converges; more of them gain nothing to speak of.
ORDERS = (2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 128)
MOST_STEPS = 2**40


@dataclass(frozen=True)
class Limits:
    """What a site allows for a data set, over all trainings and federations."""

    total_epsilon: float | None  # None: no limit of its own
    delta: float


def refuse_overspend(
    dataset: str, founders: Sequence[Event], committed: Sequence[Event], asked: Event, limits: Limits
) -> None:
    """Refuse a training that does not fit beside what a data set has committed already.

    Args:
        dataset: for the reason.
        founders: the trainings that were promised before anything was charged, as planned, in order.
        committed: charges of settled trainings, and all promised steps of open ones.
        asked: the whole of the new training.
        limits: of the data set.

    Raises:
        BudgetError: It says what is spent, what is asked and what the budget is.
    """
    total, delta = limits.total_epsilon, limits.delta
    if asked.noise_multiplier == 0:
        raise BudgetError("a training without noise spends more than any budget")
    if total is None:
        return
    budget = f"the budget of {dataset} is epsilon {total:g} at delta {delta!r}"
    if not founders:
        if (alone := epsilon([asked], delta)) > total:
            raise BudgetError(
                f"nothing is spent, this training may spend epsilon {rounded_up(alone)}; {budget}"
            )
        return
    order = filter_order(founders[0], limits)
    planned = filter_epsilon(founders, order, delta)
    spent = filter_epsilon(committed, order, delta)
    after = filter_epsilon([*committed, asked], order, delta)
    if max(planned, after) > total:
        alone = epsilon([asked], delta)
        why = "" if after > total else f", and the first ones were planned for {rounded_up(planned)}"
        raise BudgetError(
            f"epsilon {rounded_up(spent)} is spent or promised, this training may spend {rounded_up(alone)}, "
            f"together {rounded_up(after)} by the Rényi filter{why}; {budget}"
        )


@cache
def filter_order(first: Event, limits: Limits) -> float:
    """The order at which most repeats of a data set's first founder stay within the limits."""
    assert limits.total_epsilon is not None  # noqa: S101 - without a limit there is no filter
    fits, beyond = 1, 2
    while beyond < MOST_STEPS and _best(first, beyond, limits.delta)[0] <= limits.total_epsilon:
        fits, beyond = beyond, 2 * beyond
    while beyond - fits > max(1, fits // 64):  # the order hardly moves within 2 %
        middle = (fits + beyond) // 2
        if _best(first, middle, limits.delta)[0] <= limits.total_epsilon:
            fits = middle
        else:
            beyond = middle
    return _best(first, fits, limits.delta)[1]


def filter_epsilon(events: Iterable[Event], order: float, delta: float) -> float:
    """Epsilon at delta of events that were chosen adaptively, by their Rényi divergence of one order.

    Conversion: Canonne, Kamath & Steinke 2020, proposition 12. Adding or removing one unit.
    """
    taken = [event for event in events if event.steps]
    if not taken:
        return 0.0
    return float(_accountant(taken, (order,)).get_epsilon(delta))


def _best(event: Event, steps: int, delta: float) -> tuple[float, float]:
    """Epsilon of so many steps, and the order that gives it."""
    many = Event(event.sampling_rate, event.noise_multiplier, steps)
    found, order = _accountant([many], ORDERS).get_epsilon_and_optimal_order(delta)
    return float(found), float(order)


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

"""Summarise a ledger for people: epsilon of each training, and of a data set against its budget."""

from dataclasses import asdict, dataclass

from fedllm.privacy.accounting import ACCOUNTANT, epsilon
from fedllm.privacy.budget import Limits, filter_epsilon, filter_order
from fedllm.privacy.chain import Reservation
from fedllm.privacy.ledger import Ledger
from fedllm.protocol.terms import ADJACENCY, rounded_up


@dataclass(frozen=True)
class TrainingSpent:
    """One reservation; epsilon is by PLD, for this training alone, at its planned delta."""

    federation: str
    run: str
    sampling_rate: float
    noise_multiplier: float
    steps_charged: int
    steps_reserved: int
    epsilon: float  # of the charged steps
    epsilon_reserved: float  # of all reserved steps
    delta: float
    open: bool


@dataclass(frozen=True)
class DatasetSpent:
    """A data set's totals over charges and open reservations, at the limits' delta."""

    dataset: str
    unit: str
    trainings: tuple[TrainingSpent, ...]
    epsilon: float  # by PLD, as if all trainings had been fixed beforehand
    epsilon_filter: float | None  # by the Rényi filter, for any choice; None: PLD is compared to the budget
    epsilon_budget: float | None  # None: the site sets no limit
    delta: float
    adjacency: str = ADJACENCY
    accountant: str = ACCOUNTANT

    @property
    def title(self) -> str:
        """Return the data set's name and how its epsilon is counted."""
        return f"{self.dataset}: unit {self.unit}, adjacency {self.adjacency}, {self.accountant}"

    @property
    def caption(self) -> str:
        """Return the total and the budget in one line."""
        total = f"epsilon {rounded_up(self.epsilon)} by PLD"
        if self.epsilon_filter is not None:
            filtered = f"epsilon {rounded_up(self.epsilon_filter)} by the Rényi filter"
            total = f"{filtered} ({rounded_up(self.epsilon)} by PLD)"
        elif sum(one.steps_charged > 0 or one.open for one in self.trainings) > 1:
            total += ", as if all trainings had been planned beforehand"
        budget = ", without a limit" if self.epsilon_budget is None else f" of {self.epsilon_budget:g}"
        return f"spent or promised: {total}{budget} at delta {self.delta!r}"

    def as_json(self) -> dict[str, object]:
        """Return all fields as a dict for JSON."""
        return asdict(self)


def spent_by(ledger: Ledger, dataset: str, limits: Limits) -> DatasetSpent:
    """Return what a data set's trainings have spent and reserved. Raises `LedgerError` for a broken chain."""
    state = ledger.state(dataset)
    committed = [reservation.committed for reservation in state.reservations.values()]
    several = sum(event.steps > 0 for event in committed) > 1  # a single training is compared by PLD
    filtered = None
    if several and limits.total_epsilon is not None:
        first = state.founders[0]
        filtered = filter_epsilon(committed, filter_order(first.event(first.most), limits), limits.delta)
    return DatasetSpent(
        dataset=dataset,
        unit=state.unit,
        trainings=tuple(_training(reservation) for reservation in state.reservations.values()),
        epsilon=epsilon(committed, limits.delta),
        epsilon_filter=filtered,
        epsilon_budget=limits.total_epsilon,
        delta=limits.delta,
    )


def _training(reservation: Reservation) -> TrainingSpent:
    entry, context = reservation.entry, reservation.entry.context
    delta = entry.delta or 0.0

    def cost(steps: int) -> float:
        return epsilon([reservation.event(steps)], delta)

    return TrainingSpent(
        federation=context.federation if context else "",
        run=context.run if context else "",
        sampling_rate=entry.sampling_rate or 0.0,
        noise_multiplier=entry.noise_multiplier or 0.0,
        steps_charged=reservation.charged,
        steps_reserved=reservation.most,
        epsilon=cost(reservation.charged),
        epsilon_reserved=cost(reservation.most),
        delta=delta,
        open=not reservation.settled,
    )

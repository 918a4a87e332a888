"""Decide which round comes next, and whether to play one."""

from collections.abc import Iterator

from fedllm.coordinator.dispatch import read_plan
from fedllm.coordinator.privacy_plan import privacy_plan
from fedllm.coordinator.progress import evaluations, played, score
from fedllm.coordinator.training import Training
from fedllm.errors import RoundError
from fedllm.journal.outcomes import Aggregated, Audited, Dispatched
from fedllm.tasks.metrics import main_metric

BUDGET_SPENT = "privacy budget spent"


def remaining(training: Training) -> Iterator[int]:
    """Yield the numbers of the rounds still to play; further rounds make up for failed ones."""
    journal, run = training.journal, training.run
    for number in training.schedule.numbers(journal, run):
        if played(journal, run) >= training.config.rounds.max:
            return
        yield number


def stop_reason(training: Training) -> str | None:
    """Return why the training should stop before its round limit; None if it should go on."""
    rounds = training.config.rounds
    measured = evaluations(training)
    newest = max(measured, default=0)
    if newest == 0:
        return None
    if rounds.target is not None:
        metric = main_metric(measured[newest].metrics, measured[newest].metric)
        if score(measured[newest]) >= metric.score(rounds.target):
            return "target reached"
    if rounds.patience is not None:
        best = max(sorted(measured), key=lambda number: score(measured[number]))
        since = sum(1 for number in measured if number > best)
        if since >= rounds.patience:
            return "no improvement"
    if rounds.drift is not None:
        moved = training.journal.require(training.run, newest, "aggregate", Aggregated).drift
        if moved < rounds.drift:
            return "the updates no longer move the model"
    return None


def over(training: Training, number: int, *, force: bool) -> str | None:
    """Return why a round should not begin; None if it should.

    Raises:
        RoundError: the privacy budget allows no more rounds, and none was completed.
    """
    limit = privacy_plan(training)
    if limit is not None and number > limit.rounds:
        if not played(training.journal, training.run):
            raise RoundError(f"no round was completed: {BUDGET_SPENT}; begin a new training")
        return BUDGET_SPENT  # failed rounds were charged too; `force` cannot exceed the budget
    begun = training.journal.outcome(training.run, number, "dispatch", Dispatched) is not None
    return None if force or begun else stop_reason(training)


def is_overdue(training: Training, number: int) -> bool:
    """Return whether an interrupted round was dispatched but not closed, and its deadline has passed."""
    dispatched = training.journal.outcome(training.run, number, "dispatch", Dispatched)
    closed = training.journal.outcome(training.run, number, "dp-audit", Audited)
    if dispatched is None or closed is not None:
        return False
    return training.now() > read_plan(training, number).deadline

"""The table of a round's steps, and the runner that runs each of them once."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from fedllm.confidentiality.mode import TRAIN, Phase
from fedllm.coordinator.aggregate import aggregate
from fedllm.coordinator.dispatch import dispatch, show_plan_again
from fedllm.coordinator.dp_audit import dp_audit
from fedllm.coordinator.evaluate import evaluate
from fedllm.coordinator.exchange_phase import exchange_phase, open_phase
from fedllm.coordinator.release import release
from fedllm.coordinator.remote_local_train import remote_local_train
from fedllm.coordinator.training import Training
from fedllm.journal.outcomes import (
    Aggregated,
    Audited,
    Dispatched,
    Evaluated,
    Outcome,
    Released,
    SiteOutcome,
)
from fedllm.logs import about
from fedllm.milestones import Measured, Milestone, RoundBegun, RoundOver, SiteDone, report

log = logging.getLogger(__name__)

Say = Callable[[str], None]
T_co = TypeVar("T_co", bound=Outcome, covariant=True)
T = TypeVar("T", bound=Outcome)


@dataclass(frozen=True)
class Step(Generic[T_co]):
    """One step of a round.

    Attributes:
        name: in the journal, in Prefect and in reports.
        outcome: the record that the journal keeps.
        function: `function(training, number, say)`, or `function(training, number, site, say)` per site.
        per_site: whether the step runs once per site, for all sites at once.
        begin: `begin(training, number, sites)`, called before a per-site step, also when it is resumed.
        again: `again(training, number, outcome)`, called when a resumed round skips the step.
        milestone: `milestone(number, outcome)`, returns the milestone to report.
    """

    name: str
    outcome: type[T_co]
    function: Callable[..., T_co]
    per_site: bool = False
    begin: Callable[..., None] | None = None
    again: Callable[..., None] | None = None
    milestone: Callable[..., Milestone] | None = None


DISPATCH = Step(
    "dispatch",
    Dispatched,
    dispatch,
    again=show_plan_again,
    milestone=lambda number, done: RoundBegun(number, done.sites),
)
LOCAL_TRAIN = Step(
    TRAIN,
    SiteOutcome,
    remote_local_train,
    per_site=True,
    milestone=lambda number, done: SiteDone(number, done.site, done.status, done.reason),
)
DP_AUDIT = Step("dp-audit", Audited, lambda training, number, _say: _audit(training, number))
AGGREGATE = Step("aggregate", Aggregated, lambda training, number, _say: aggregate(training, number))
EVALUATE = Step(
    "evaluate",
    Evaluated,
    lambda training, number, _say: evaluate(training, number),
    milestone=lambda number, done: Measured(number, done.metrics, done.metric),
)
RELEASE = Step(
    "release",
    Released,
    lambda training, number, _say: release(training, number),
    milestone=lambda number, done: RoundOver(number, done.uri),
)


def steps_of(training: Training) -> tuple[Step[Outcome], ...]:
    """Return the steps of a training's rounds, in order; its mode of confidentiality may add phases."""
    later = tuple(_phase_step(phase) for phase in training.mode.later)
    return (DISPATCH, LOCAL_TRAIN, *later, DP_AUDIT, AGGREGATE, EVALUATE, RELEASE)


def _phase_step(phase: Phase) -> Step[SiteOutcome]:
    return Step(
        phase.name,
        SiteOutcome,
        partial(exchange_phase, phase=phase),
        per_site=True,
        begin=partial(open_phase, phase=phase),
        milestone=LOCAL_TRAIN.milestone,
    )


def arrivals(training: Training, number: int) -> list[SiteOutcome]:
    """Return the recorded outcomes of a plan's sites in the training phase."""
    sites = training.journal.require(training.run, number, DISPATCH.name, Dispatched).sites
    outcomes = [
        training.journal.outcome(training.run, number, f"{TRAIN} {site}", SiteOutcome) for site in sites
    ]
    return [one for one in outcomes if one is not None]


def _audit(training: Training, number: int) -> Audited:
    return dp_audit(training, number, arrivals(training, number))


class Runner(Protocol):
    """Runs steps: by plain calls, or as Prefect tasks."""

    def run(self, step: Step[T], number: int) -> T:
        """Run a step once and return its recorded outcome."""

    def each(
        self, step: Step[T], number: int, sites: Sequence[str], meanwhile: Callable[[], None]
    ) -> Iterator[T]:
        """Run a per-site step for all sites at once, and yield their outcomes as they arrive.

        Args:
            step: with `per_site`.
            number: of the plan.
            sites: their names.
            meanwhile: called in this thread while the sites work.
        """


class JournaledRunner:
    """Runs each step once by a plain call; Prefect's tasks wrap this."""

    def __init__(self, training: Training) -> None:
        self.training = training

    def run(self, step: Step[T], number: int, say: Say = log.info) -> T:
        """Run a step once and return its recorded outcome."""
        training = self.training
        done = training.journal.outcome(training.run, number, step.name, step.outcome)
        if done is None:
            training.check()
            done = training.journal.once(
                training.run, number, step.name, step.outcome, lambda: step.function(training, number, say)
            )
        elif step.again is not None:
            step.again(training, number, done)
        if step.milestone is not None:
            report(step.milestone(number, done))
        return done

    def run_site(self, step: Step[T], number: int, site: str, say: Say) -> T:
        """Run a per-site step for one site once, and return its recorded outcome."""
        training, name = self.training, f"{step.name} {site}"
        with about(federation=training.config.name, run=training.run, round=number, site=site):
            done = training.journal.once(
                training.run, number, name, step.outcome, lambda: step.function(training, number, site, say)
            )
        if step.milestone is not None:
            report(step.milestone(number, done))
        return done

    def each(
        self,
        step: Step[T],
        number: int,
        sites: Sequence[str],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Iterator[T]:
        """Run a per-site step for all sites at once, one thread per site."""
        with ThreadPoolExecutor(max_workers=max(1, len(sites))) as pool:
            runs = [pool.submit(self.run_site, step, number, site, lambda _text: None) for site in sites]
            meanwhile()
            for run in as_completed(runs):
                yield run.result()

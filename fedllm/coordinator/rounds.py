"""A round is six steps, a training is rounds; who runs a step (Prefect or nobody) is passed in."""

import contextlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from fedllm.coordinator.aggregate import aggregate
from fedllm.coordinator.dispatch import dispatch, read_plan
from fedllm.coordinator.dp_audit import dp_audit
from fedllm.coordinator.evaluate import baseline, evaluate
from fedllm.coordinator.next_round import is_overdue, over, remaining, stop_reason
from fedllm.coordinator.payloads import forget_updates, show_model_again
from fedllm.coordinator.progress import played
from fedllm.coordinator.release import finish_record, publish_waiting, release
from fedllm.coordinator.remote_local_train import remote_local_train
from fedllm.coordinator.result import result
from fedllm.coordinator.round_keys import destroy_stale_keys
from fedllm.coordinator.training import Training
from fedllm.coordinator.training_report import report_training
from fedllm.errors import (
    CancelledError,
    DiskFullError,
    ExchangeError,
    FedllmError,
    LeaseError,
    LedBeforeError,
    RoundError,
)
from fedllm.journal.outcomes import (
    Aggregated,
    Audited,
    Dispatched,
    Evaluated,
    FailedRound,
    Outcome,
    Released,
    SiteOutcome,
)
from fedllm.logs import about
from fedllm.milestones import Ended, Measured, Opened, RoundBegun, RoundOver, SiteDone, report

log = logging.getLogger(__name__)

Say = Callable[[str], None]
Made = TypeVar("Made", bound=Outcome)


class Steps(Protocol):
    """How the six steps are run. Every one does nothing twice: the journal knows what is done."""

    def dispatch(self, number: int) -> Dispatched:
        """Choose sites and publish the plan."""

    def remote_local_train(
        self, number: int, sites: Sequence[str], meanwhile: Callable[[], None] = lambda: None
    ) -> list[SiteOutcome]:
        """Wait for all sites at once; do `meanwhile` in this thread as they train."""

    def dp_audit(self, number: int, outcomes: Sequence[SiteOutcome]) -> Audited:
        """Check the updates and close the round."""

    def aggregate(self, number: int) -> Aggregated:
        """Compute the next model."""

    def evaluate(self, number: int) -> Evaluated:
        """Measure it."""

    def release(self, number: int) -> Released:
        """Register it."""


class JournaledSteps:
    """The steps as plain calls, each done once: the ones that Prefect's tasks wrap."""

    def __init__(self, training: Training) -> None:
        self.training = training

    def dispatch(self, number: int, say: Say = log.info) -> Dispatched:
        """Choose sites and publish the plan; a plan under way is pointed at again after a crash."""
        training, run = self.training, self.training.run
        known = training.journal.outcome(run, number, "dispatch", Dispatched)
        if known is None:
            return self._once(number, "dispatch", Dispatched, lambda: dispatch(training, number, say))
        if training.journal.outcome(run, number, "dp-audit", Audited) is None:
            show_model_again(training, read_plan(training, number).model)
            training.show_again(training.layout.plan(run, number))
            training.point_head(number, known.plan_sha256)
        return known

    def wait_for(self, number: int, site: str, say: Say) -> SiteOutcome:
        """Wait for one site."""
        training, step = self.training, f"remote-local-train {site}"
        with about(federation=training.config.name, run=training.run, round=number, site=site):
            done = training.journal.once(
                training.run,
                number,
                step,
                SiteOutcome,
                lambda: remote_local_train(training, number, site, say),
            )
        report(SiteDone(number, site, done.status, done.reason))
        return done

    def remote_local_train(
        self, number: int, sites: Sequence[str], meanwhile: Callable[[], None] = lambda: None
    ) -> list[SiteOutcome]:
        """Wait for all sites at once, a thread each."""
        with ThreadPoolExecutor(max_workers=max(1, len(sites))) as pool:
            waits = [pool.submit(self.wait_for, number, site, lambda _text: None) for site in sites]
            meanwhile()
            return [wait.result() for wait in waits]

    def dp_audit(self, number: int, outcomes: Sequence[SiteOutcome]) -> Audited:
        """Check the updates and close the round."""
        return self._once(number, "dp-audit", Audited, lambda: dp_audit(self.training, number, outcomes))

    def aggregate(self, number: int) -> Aggregated:
        """Compute the next model."""
        return self._once(number, "aggregate", Aggregated, lambda: aggregate(self.training, number))

    def evaluate(self, number: int) -> Evaluated:
        """Measure it."""
        return self._once(number, "evaluate", Evaluated, lambda: evaluate(self.training, number))

    def release(self, number: int) -> Released:
        """Register it."""
        return self._once(number, "release", Released, lambda: release(self.training, number))

    def _once(self, number: int, step: str, kind: type[Made], compute: Callable[[], Made]) -> Made:
        self.training.check()
        return self.training.journal.once(self.training.run, number, step, kind, compute)


def play_round(training: Training, number: int, steps: Steps) -> Evaluated:
    """Play one round through its six steps.

    Raises:
        RoundError: the round failed; that is on record, and a resumed training goes on with the next.
    """
    try:
        plan = steps.dispatch(number)
        report(RoundBegun(number, plan.sites))
        outcomes = steps.remote_local_train(number, plan.sites, lambda: _measure_zero_shot(training))
        steps.dp_audit(number, outcomes)
    except RoundError as error:
        failed = FailedRound(reason=str(error))
        training.journal.once(training.run, number, "failed", FailedRound, lambda: failed)
        done = training.journal.outcome(training.run, number, "dispatch", Dispatched)
        forget_updates(training, number, done.sites if done else ())
        raise
    steps.aggregate(number)
    evaluated = steps.evaluate(number)
    report(Measured(number, evaluated.metrics))
    released = steps.release(number)
    report(RoundOver(number, released.uri))
    return evaluated


def _measure_zero_shot(training: Training) -> None:
    """Evaluate the base model while the sites train, unless that was done before.

    What keeps it from being measured would keep every round from being measured, so nobody waits for the
    sites any longer.
    """
    if training.journal.outcome(training.run, 0, "baseline", Evaluated) is not None:
        return
    try:
        measured = baseline(training)
    except FedllmError as error:
        training.stop(error)
        raise
    report(Measured(0, measured.metrics))


def play(training: Training, steps: Steps, *, insist: bool = False) -> str:
    """Play rounds until the training should stop; returns why it did.

    Args:
        training: the training.
        steps: how each step is run.
        insist: play up to the round limit whatever the measurements say.
    """
    reason = "round limit"
    config, before = training.config, played(training.journal, training.run)
    report(Opened(config.name, training.run, config.rounds.max, before))
    try:
        destroy_stale_keys(training)
        for number in remaining(training):
            if early := over(training, number, insist=insist):
                reason = early
                break
            overdue = is_overdue(training, number)
            try:
                with about(federation=training.config.name, run=training.run, round=number):
                    play_round(training, number, steps)
            except RoundError as error:
                if not (overdue or isinstance(error, LedBeforeError)):
                    raise
                log.warning("round %d cannot be completed, the next one follows: %s", number, error)
    except LeaseError:
        raise  # nothing more may be written: another coordinator leads
    except CancelledError as error:
        try:
            close(training, "cancelled", str(error))
        except (CancelledError, LeaseError):
            # Deposed by `fedllm cancel`, which has told the journal and the sites.
            _end_record(training, "cancelled", str(error))
            report_training(training)
        raise
    except BaseException as error:
        # What is no `Exception` tells the process to end (Ctrl-C, SIGTERM): nothing has failed.
        status = "failed" if isinstance(error, Exception) else "crashed"
        with contextlib.suppress(DiskFullError):  # then that is what stopped it, and what is told
            close(training, status, str(error) or type(error).__name__)
        raise
    if not insist and reason == "round limit":
        reason = stop_reason(training) or reason
    close(training, "completed", reason)
    return reason


def close(training: Training, status: str, reason: str) -> None:
    """End a training: the sites stop looking, what waits for MLflow is tried once more."""
    training.journal.end_run(training.run, status, reason)
    report(Ended(status, reason))
    try:
        training.point_head(0, None)
        publish_waiting(training)
        _end_record(training, status, reason)
    except ExchangeError as error:
        log.warning("%s is over, but the store could not be told: %s", training.run, error)
    report_training(training)


def _end_record(training: Training, status: str, reason: str) -> None:
    told = {"status": status, "stop_reason": reason, "config": training.config.public_json()}
    if played(training.journal, training.run):
        told |= result(training).public()
    finish_record(training, told)

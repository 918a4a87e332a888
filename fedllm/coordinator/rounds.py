"""Play a training: rounds of the steps in fedllm/coordinator/steps.py, each run by the given runner."""

import contextlib
import logging

from fedllm.coordinator.evaluate import baseline
from fedllm.coordinator.next_round import is_overdue, over, remaining, stop_reason
from fedllm.coordinator.payloads import forget_updates
from fedllm.coordinator.progress import played
from fedllm.coordinator.release import finish_record, publish_waiting
from fedllm.coordinator.result import result
from fedllm.coordinator.round_keys import destroy_stale_keys
from fedllm.coordinator.steps import DISPATCH, DP_AUDIT, Runner, steps_of
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
from fedllm.journal.outcomes import Audited, Dispatched, Evaluated, FailedRound, SiteOutcome
from fedllm.journal.runs import end_run
from fedllm.logs import about
from fedllm.milestones import Ended, Measured, Opened, report

log = logging.getLogger(__name__)


def play_round(training: Training, number: int, runner: Runner) -> None:
    """Play one round through its steps.

    Raises:
        RoundError: the round failed; this is recorded, and a resumed training continues with the next.
    """
    try:
        _play_steps(training, number, runner)
    except RoundError as error:
        if training.journal.outcome(training.run, number, DP_AUDIT.name, Audited) is None:
            failed = FailedRound(reason=str(error))
            training.journal.once(training.run, number, "failed", FailedRound, lambda: failed)
            done = training.journal.outcome(training.run, number, DISPATCH.name, Dispatched)
            forget_updates(training, number, done.sites if done else ())
        raise


def _play_steps(training: Training, number: int, runner: Runner) -> None:
    sites: tuple[str, ...] = ()
    for step in steps_of(training):
        if not step.per_site:
            done = runner.run(step, number)
            sites = done.sites if isinstance(done, Dispatched) else sites
            continue
        if step.begin is not None:
            step.begin(training, number, sites)
        arrived: list[SiteOutcome] = []
        for outcome in runner.each(step, number, sites, lambda: _measure_zero_shot(training)):
            assert isinstance(outcome, SiteOutcome)  # noqa: S101 - the outcome of all per-site steps
            arrived.append(outcome)
            if training.schedule.is_due(sites, arrived):
                break
        # A site that failed in a phase does not take part in the next.
        sites = tuple(sorted(outcome.site for outcome in arrived if outcome.status == "updated"))


def _measure_zero_shot(training: Training) -> None:
    """Evaluate the base model while the sites train, unless it was evaluated before.

    A failure stops the training without waiting for the sites: each round's evaluation would fail too.
    """
    if training.journal.outcome(training.run, 0, "baseline", Evaluated) is not None:
        return
    try:
        measured = baseline(training)
    except FedllmError as error:
        training.stop(error)
        raise
    report(Measured(0, measured.metrics, measured.metric))


def play(training: Training, runner: Runner, *, force: bool = False) -> str:
    """Play rounds until the training should stop; return the reason.

    Args:
        training: the training.
        runner: runs each step.
        force: play up to the round limit, regardless of the metrics.
    """
    reason = "round limit"
    config, before = training.config, played(training.journal, training.run)
    report(Opened(config.name, training.run, config.rounds.max, before))
    try:
        destroy_stale_keys(training)
        for number in remaining(training):
            if early := over(training, number, force=force):
                reason = early
                break
            overdue = is_overdue(training, number)
            try:
                with about(federation=training.config.name, run=training.run, round=number):
                    play_round(training, number, runner)
            except RoundError as error:
                if not (overdue or isinstance(error, LedBeforeError)):
                    raise
                log.warning("round %d cannot be completed, continuing with the next one: %s", number, error)
    except LeaseError:
        raise  # another coordinator leads: this one may not write any more
    except CancelledError as error:
        try:
            close(training, "cancelled", str(error))
        except (CancelledError, LeaseError):
            # Deposed by `fedllm cancel`, which has updated the journal and the sites.
            _end_record(training, "cancelled", str(error))
            report_training(training)
        raise
    except BaseException as error:
        # Other exceptions end the process (Ctrl-C, SIGTERM): no step has failed.
        status = "failed" if isinstance(error, Exception) else "crashed"
        with contextlib.suppress(DiskFullError):  # the disk is then the cause of `error` too
            close(training, status, str(error) or type(error).__name__)
        raise
    if not force and reason == "round limit":
        reason = stop_reason(training) or reason
    close(training, "completed", reason)
    return reason


def close(training: Training, status: str, reason: str) -> None:
    """End a training: record its status, set the head to idle, and retry releases that wait for MLflow."""
    end_run(training.journal, training.run, status, reason)
    report(Ended(status, reason))
    try:
        training.point_head(0, None)
        publish_waiting(training)
        _end_record(training, status, reason)
    except ExchangeError as error:
        log.warning("%s has ended, but the store could not be updated: %s", training.run, error)
    report_training(training)


def _end_record(training: Training, status: str, reason: str) -> None:
    record = {"status": status, "stop_reason": reason, "config": training.config.public_json()}
    if played(training.journal, training.run):
        record |= result(training).public()
    finish_record(training, record)

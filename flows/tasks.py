"""Run the steps of a round as Prefect tasks, bound in one loop over their table."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import TaskRun
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Failed

from fedllm.coordinator import steps as table
from fedllm.coordinator.next_round import BUDGET_SPENT
from fedllm.coordinator.rounds import play
from fedllm.coordinator.steps import JournaledRunner, Step, steps_of
from fedllm.coordinator.training import Training
from fedllm.errors import ExchangeError
from fedllm.journal.outcomes import (
    Aggregated,
    Audited,
    Dispatched,
    Evaluated,
    Outcome,
    Released,
    SiteOutcome,
)
from flows import artifacts, events

T = TypeVar("T", bound=Outcome)


def _worth_retrying(_task: object, _run: TaskRun, state: State[Any]) -> bool:
    """Return whether the store did not answer: it may answer later. Other failures would only repeat."""
    try:
        state.result()
    except ExchangeError:
        return True
    except Exception:  # noqa: BLE001 - no other failure is worth a retry
        return False
    return False


def play_as_tasks(training: Training, *, force: bool = False) -> None:
    """Play a training with Prefect tasks as steps; emit an event if its privacy budget has ended it."""
    if play(training, PrefectRunner(training), force=force) == BUDGET_SPENT:
        best_effort(lambda: events.emit_spent_budgets(training))


def best_effort(show: Callable[[], None]) -> None:
    """Show an artifact; log a failure as a warning, so that an unreachable Prefect never stops a training."""
    try:
        show()
    except Exception as error:  # noqa: BLE001 - no failure here may stop the training
        get_run_logger().warning("an artifact could not be shown: %s", error)


def _dispatched(_training: Training, number: int, done: Dispatched) -> None:
    get_run_logger().info("round %d goes to %s", number, ", ".join(done.sites))


def _audited(training: Training, number: int, done: Audited) -> None:
    best_effort(lambda: artifacts.show_audit(training, number, done))
    best_effort(lambda: artifacts.show_budget(training, number))
    best_effort(lambda: artifacts.show_security(training, number))
    arrived = table.arrivals(training, number)
    absent = {one.site: one.status for one in arrived if one.status in {"declined", "silent"}}
    best_effort(lambda: events.emit_site_failures(training, number, done, absent))
    best_effort(lambda: events.emit_low_budgets(training, number))


def _aggregated(_training: Training, _number: int, done: Aggregated) -> None:
    get_run_logger().info("model %s, drift %.4f", done.model.sha256[:12], done.drift)


def _evaluated(training: Training, _number: int, _done: Evaluated) -> None:
    best_effort(lambda: artifacts.show_metrics(training))


def _released(training: Training, number: int, done: Released) -> None:
    best_effort(lambda: artifacts.show_release(training, number, done))
    best_effort(lambda: events.emit_round_completed(training, number, done))


# Run inside the task run after its step.
_SHOW: Mapping[str, Callable[[Training, int, Any], None]] = {
    table.DISPATCH.name: _dispatched,
    table.DP_AUDIT.name: _audited,
    table.AGGREGATE.name: _aggregated,
    table.EVALUATE.name: _evaluated,
    table.RELEASE.name: _released,
}

# Nothing is cached or persisted: the journal holds outcomes, and tensors never travel through Prefect.
_OPTIONS: dict[str, Any] = {
    "persist_result": False,
    "cache_policy": NO_CACHE,
    "retries": 6,
    "retry_delay_seconds": [1, 5, 15, 30, 30, 30],  # s: a run survives a store that is down for a minute
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _worth_retrying,
}


class PrefectRunner:
    """Run each step as a task run with its own name, inside a flow run."""

    def __init__(self, training: Training) -> None:
        self._training = training
        self._runner = JournaledRunner(training)
        self._tasks: dict[str, Any] = {
            step.name: self._per_site(step) if step.per_site else self._once(step)
            for step in steps_of(training)
        }

    def _once(self, step: Step[Outcome]) -> Any:  # noqa: ANN401 - Prefect's Task of these parameters
        @task(name=step.name, task_run_name=f"round-{{number}} {step.name}", **_OPTIONS)
        def run(number: int) -> Outcome:
            done = self._runner.run(step, number, get_run_logger().info)
            if step.name in _SHOW:
                _SHOW[step.name](self._training, number, done)
            return done

        return run

    def _per_site(self, step: Step[Outcome]) -> Any:  # noqa: ANN401 - Prefect's Task of these parameters
        @task(name=step.name, task_run_name=f"round-{{number}} {step.name} {{site}}", **_OPTIONS)
        def run(number: int, site: str) -> Outcome | State[None]:
            done = self._runner.run_site(step, number, site, get_run_logger().info)
            if not isinstance(done, SiteOutcome) or done.status != "failed":
                return done
            # Return a state instead of raising: no traceback, and the round continues with the other sites.
            return Failed(message=f"{site} could not train: {done.reason}")

        return run

    def run(self, step: Step[T], number: int) -> T:
        """Run a step as a task run, and return its outcome."""
        done: T = self._tasks[step.name](number)
        return done

    def each(
        self,
        step: Step[T],
        number: int,
        sites: Sequence[str],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Iterator[T]:
        """Run a per-site step for all sites at once, one task run per site; yield outcomes as they arrive."""
        runs: dict[PrefectFuture[Any], str] = {
            self._tasks[step.name].submit(number, site): site for site in sites
        }
        meanwhile()
        for run in as_completed(list(runs)):
            yield self._outcome(step, number, runs[run], run)

    def _outcome(self, step: Step[T], number: int, site: str, run: PrefectFuture[Any]) -> T:
        """Return a task run's outcome; if the site failed, from the journal, since the state holds none."""
        journal = self._training.journal
        outcome = journal.outcome(self._training.run, number, f"{step.name} {site}", step.outcome)
        if isinstance(outcome, SiteOutcome) and outcome.status == "failed":
            return outcome
        result: T = run.result()
        return result

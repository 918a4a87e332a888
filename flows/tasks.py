"""The steps of a round as Prefect tasks, bound in one loop over their table."""

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
    """A store that does not answer may answer later; every other failure would only be repeated."""
    try:
        state.result()
    except ExchangeError:
        return True
    except Exception:  # noqa: BLE001 - whatever else it was, it is not worth a retry
        return False
    return False


def play_as_tasks(training: Training, *, force: bool = False) -> None:
    """Play a training by steps that are Prefect's tasks, and tell when its privacy budget has ended it."""
    if play(training, PrefectRunner(training), force=force) == BUDGET_SPENT:
        unless_away(lambda: events.tell_of_spent_budgets(training))


def unless_away(show: Callable[[], None]) -> None:
    """Show an artifact; a Prefect server that is away costs the picture, never the training."""
    try:
        show()
    except Exception as error:  # noqa: BLE001 - whatever kept it from being shown
        get_run_logger().warning("an artifact could not be shown: %s", error)


def _dispatched(_training: Training, number: int, done: Dispatched) -> None:
    get_run_logger().info("round %d goes to %s", number, ", ".join(done.sites))


def _audited(training: Training, number: int, done: Audited) -> None:
    unless_away(lambda: artifacts.show_audit(training, number, done))
    unless_away(lambda: artifacts.show_budget(training, number))
    unless_away(lambda: artifacts.show_security(training, number))
    arrived = table.arrivals(training, number)
    absent = {one.site: one.status for one in arrived if one.status in {"declined", "silent"}}
    unless_away(lambda: events.tell_of_sites(training, number, done, absent))
    unless_away(lambda: events.tell_of_budgets(training, number))


def _aggregated(_training: Training, _number: int, done: Aggregated) -> None:
    get_run_logger().info("model %s, drift %.4f", done.model.sha256[:12], done.drift)


def _evaluated(training: Training, _number: int, _done: Evaluated) -> None:
    unless_away(lambda: artifacts.show_metrics(training))


def _released(training: Training, number: int, done: Released) -> None:
    unless_away(lambda: artifacts.show_release(training, number, done))
    unless_away(lambda: events.tell_of_round(training, number, done))


# What is logged and shown inside a task's run once its step is done.
_SHOW: Mapping[str, Callable[[Training, int, Any], None]] = {
    table.DISPATCH.name: _dispatched,
    table.DP_AUDIT.name: _audited,
    table.AGGREGATE.name: _aggregated,
    table.EVALUATE.name: _evaluated,
    table.RELEASE.name: _released,
}

# Nothing is cached or persisted: the journal knows what is done, and tensors never travel through Prefect.
_OPTIONS: dict[str, Any] = {
    "persist_result": False,
    "cache_policy": NO_CACHE,
    "retries": 6,
    "retry_delay_seconds": [1, 5, 15, 30, 30, 30],  # s: a store that is away for a minute ends no run
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _worth_retrying,
}


class PrefectRunner:
    """Runs each step as a task run with its own name. Use inside a flow run."""

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
            # A state is returned, not raised: no traceback, and the round goes on with the others.
            return Failed(message=f"{site} could not train: {done.reason}")

        return run

    def run(self, step: Step[T], number: int) -> T:
        """Do a step as a task run."""
        done: T = self._tasks[step.name](number)
        return done

    def each(
        self,
        step: Step[T],
        number: int,
        sites: Sequence[str],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Iterator[T]:
        """Do a per-site step for all sites at once, a task run each; outcomes as they arrive."""
        runs: dict[PrefectFuture[Any], str] = {
            self._tasks[step.name].submit(number, site): site for site in sites
        }
        meanwhile()
        for run in as_completed(list(runs)):
            yield self._outcome(step, number, runs[run], run)

    def _outcome(self, step: Step[T], number: int, site: str, run: PrefectFuture[Any]) -> T:
        """Return what a task came to; where the site failed the journal has it, for its state holds none."""
        journal = self._training.journal
        done = journal.outcome(self._training.run, number, f"{step.name} {site}", step.outcome)
        if isinstance(done, SiteOutcome) and done.status == "failed":
            return done
        arrived: T = run.result()
        return arrived

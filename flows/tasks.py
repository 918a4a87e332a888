"""The six steps as Prefect tasks, with what a user of Prefect's UI wants to see as artifacts."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_link_artifact, create_progress_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import TaskRun
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.states import Failed

from fedllm.coordinator.budget import spent
from fedllm.coordinator.next_round import BUDGET_SPENT
from fedllm.coordinator.privacy_plan import privacy_plan
from fedllm.coordinator.progress import evaluations
from fedllm.coordinator.release import site_rows
from fedllm.coordinator.rounds import JournaledSteps, play
from fedllm.coordinator.training import Training
from fedllm.errors import ExchangeError
from fedllm.journal.outcomes import Aggregated, Audited, Dispatched, Evaluated, Released, SiteOutcome
from fedllm.protocol.terms import told_in_words
from flows import events


def _worth_retrying(_task: object, _run: TaskRun, state: State[Any]) -> bool:
    """A store that does not answer may answer later; every other failure would only be repeated."""
    try:
        state.result()
    except ExchangeError:
        return True
    except Exception:  # noqa: BLE001 - whatever else it was, it is not worth a retry
        return False
    return False


def play_as_tasks(training: Training, *, insist: bool = False) -> None:
    """Play a training by steps that are Prefect's tasks, and tell when its privacy budget has ended it."""
    if play(training, PrefectSteps(training), insist=insist) == BUDGET_SPENT:
        unless_away(lambda: events.tell_of_spent_budgets(training))


def unless_away(show: Callable[[], None]) -> None:
    """Show an artifact; a Prefect server that is away costs the picture, never the training."""
    try:
        show()
    except Exception as error:  # noqa: BLE001 - whatever kept it from being shown
        get_run_logger().warning("an artifact could not be shown: %s", error)


_MOST_ROWS = 200  # security events shown; the journal keeps more

# Nothing is cached or persisted: the journal knows what is done, and tensors never travel through Prefect.
_STEP: dict[str, Any] = {
    "persist_result": False,
    "cache_policy": NO_CACHE,
    "retries": 6,
    "retry_delay_seconds": [1, 5, 15, 30, 30, 30],  # s: a store that is away for a minute ends no run
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": _worth_retrying,
}


class PrefectSteps:
    """The journaled steps, each as a task run with its own name. Use inside a flow run."""

    def __init__(self, training: Training) -> None:
        steps = JournaledSteps(training)
        self._training = training

        @task(name="dispatch", task_run_name="round-{number} dispatch", **_STEP)
        def dispatch(number: int) -> Dispatched:
            done = steps.dispatch(number, get_run_logger().info)
            get_run_logger().info("round %d goes to %s", number, ", ".join(done.sites))
            return done

        @task(name="remote-local-train", task_run_name="round-{number} remote-local-train {site}", **_STEP)
        def remote_local_train(number: int, site: str) -> SiteOutcome | State[None]:
            done = steps.wait_for(number, site, get_run_logger().info)
            if done.status != "failed":
                return done
            # A state is returned, not raised: no traceback, and the round goes on with the others.
            return Failed(message=f"{site} could not train: {done.reason}")

        @task(name="dp-audit", task_run_name="round-{number} dp-audit", **_STEP)
        def dp_audit(number: int, outcomes: list[SiteOutcome]) -> Audited:
            done = steps.dp_audit(number, outcomes)
            unless_away(lambda: self._show_audit(number, done))
            unless_away(lambda: self._show_budget(number))
            unless_away(lambda: self._show_security(number))
            absent = {
                outcome.site: outcome.status
                for outcome in outcomes
                if outcome.status in {"declined", "silent"}
            }
            unless_away(lambda: events.tell_of_sites(self._training, number, done, absent))
            unless_away(lambda: events.tell_of_budgets(self._training, number))
            return done

        @task(name="aggregate", task_run_name="round-{number} aggregate", **_STEP)
        def aggregate(number: int) -> Aggregated:
            done = steps.aggregate(number)
            get_run_logger().info("model %s, drift %.4f", done.model.sha256[:12], done.drift)
            return done

        @task(name="evaluate", task_run_name="round-{number} evaluate", **_STEP)
        def evaluate(number: int) -> Evaluated:
            done = steps.evaluate(number)
            unless_away(self._show_metrics)
            return done

        @task(name="release", task_run_name="round-{number} release", **_STEP)
        def release(number: int) -> Released:
            done = steps.release(number)
            unless_away(lambda: self._show_release(number, done))
            unless_away(lambda: events.tell_of_round(self._training, number, done))
            return done

        self._dispatch, self._remote_local_train, self._dp_audit = dispatch, remote_local_train, dp_audit
        self._aggregate, self._evaluate, self._release = aggregate, evaluate, release

    def dispatch(self, number: int) -> Dispatched:
        """Choose sites and publish the plan."""
        return self._dispatch(number)

    def remote_local_train(
        self, number: int, sites: Sequence[str], meanwhile: Callable[[], None] = lambda: None
    ) -> list[SiteOutcome]:
        """Wait for all sites at once, a task run each."""
        futures = {site: self._remote_local_train.submit(number, site) for site in sites}
        meanwhile()
        return [self._outcome(number, site, future) for site, future in futures.items()]

    def _outcome(self, number: int, site: str, future: PrefectFuture[Any]) -> SiteOutcome:
        """What a task came to, by the journal where the site's training failed: no result comes with that."""
        future.wait()
        journal, run = self._training.journal, self._training.run
        done = journal.outcome(run, number, f"remote-local-train {site}", SiteOutcome)
        return done if done is not None and done.status == "failed" else future.result()

    def dp_audit(self, number: int, outcomes: Sequence[SiteOutcome]) -> Audited:
        """Check the updates and close the round."""
        return self._dp_audit(number, list(outcomes))

    def aggregate(self, number: int) -> Aggregated:
        """Compute the next model."""
        return self._aggregate(number)

    def evaluate(self, number: int) -> Evaluated:
        """Measure it."""
        return self._evaluate(number)

    def release(self, number: int) -> Released:
        """Register it."""
        return self._release(number)

    def _show_audit(self, number: int, audited: Audited) -> None:
        rows = site_rows(self._training, number, audited)
        create_table_artifact(
            key=f"{self._training.config.name}-sites",
            table=rows,
            description=f"Round {number} of {self._training.run}: what each site did and what dp-audit found",
        )

    def _show_budget(self, number: int) -> None:
        """How much of the privacy budget is spent, by the site that spent most."""
        plan, largest = privacy_plan(self._training), spent(self._training, number)
        if plan is None or largest is None:
            return
        name = self._training.config.name
        create_progress_artifact(
            min(100.0, 100 * largest / plan.epsilon),
            key=f"{name}-privacy-budget",
            description=f"{self._training.run}: {told_in_words(plan, largest)}, after round {number}",
        )

    def _show_security(self, number: int) -> None:
        """What was refused so far, if anything; an event says that this round added to it."""
        name, run = self._training.config.name, self._training.run
        rows = [asdict(event) for event in self._training.journal.security.events(run)]
        if not rows:
            return
        create_table_artifact(
            key=f"{name}-security",
            table=rows[-_MOST_ROWS:],
            description=f"{run}: what was refused, from whom and why; `fedllm events` shows all of it",
        )
        new = [row for row in rows if row["round"] == number]
        if new:
            told = {"run": run, "round": number, "events": new[-_MOST_ROWS:]}
            events.tell(name, events.SECURITY, told, run=run)

    def _show_metrics(self) -> None:
        measured = evaluations(self._training)
        rows = [
            {
                "round": number or "zero-shot",
                **{name: round(value, 4) for name, value in done.metrics.items()},
            }
            for number, done in measured.items()
        ]
        create_table_artifact(
            key=f"{self._training.config.name}-quality",
            table=rows,
            description=f"{self._training.run}: quality on the public set, by round",
        )

    def _show_release(self, number: int, done: Released) -> None:
        if done.refused is not None:
            get_run_logger().error("round %d is kept and not published: %s", number, done.refused)
            return
        if done.uri is None:
            get_run_logger().warning("round %d waits for MLflow: it is published when MLflow answers", number)
            return
        create_link_artifact(
            key=f"{self._training.config.name}-version",
            link=f"{self._training.tracking_uri}/#/models/{done.name}/versions/{done.version}",
            link_text=f"{done.name} version {done.version}",
            description=f"Round {number} of {self._training.run} in MLflow's registry",
        )

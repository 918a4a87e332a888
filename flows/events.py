"""Emit a federation's events to Prefect, for people and automations. They hold nothing private.

An event's resource is `fedllm.federation.NAME`. Its training and site are related resources, and Prefect adds
the flow run. An event that is repeated after a resume has the same id.
"""

from collections.abc import Mapping
from uuid import NAMESPACE_URL, UUID, uuid5

from prefect.events import emit_event

from fedllm.coordinator.privacy_plan import privacy_plan
from fedllm.coordinator.release_privacy import accounted
from fedllm.coordinator.training import Training
from fedllm.journal.outcomes import Audited, Evaluated, FailedRound, Released
from fedllm.protocol.terms import PrivacyPlan

ROUND_COMPLETED = "fedllm.round.completed"
TRAINING_COMPLETED = "fedllm.training.completed"
TRAINING_FAILED = "fedllm.training.failed"
TRAINING_CANCELLED = "fedllm.training.cancelled"
SITE_FAILED = "fedllm.site.failed"  # its training failed, or its update was refused
SITE_LEFT_OUT = "fedllm.site.left-out"  # it declined, or sent nothing
BUDGET_LOW = "fedllm.budget.low"
SECURITY = "fedllm.security"  # messages were refused

LOW = 0.1  # share of a training's epsilon: a budget with less left is low


def emit(  # noqa: PLR0913 - an event's parts, each named by the caller
    federation: str,
    event: str,
    payload: Mapping[str, object],
    *,
    run: str | None = None,
    site: str | None = None,
    event_id: UUID | None = None,
) -> None:
    """Queue an event; a background thread sends it. The event is lost if Prefect is unreachable.

    Args:
        federation: that the event is about.
        event: its name.
        payload: its details, visible to anybody who can read this Prefect.
        run: the training that it concerns.
        site: the site that it concerns.
        event_id: of an event that may be repeated; default: a new id.
    """
    related = []
    if run is not None:
        related.append(_related(f"fedllm.run.{run}", "fedllm-run", run))
    if site is not None:
        related.append(_related(f"fedllm.site.{federation}.{site}", "fedllm-site", site))
    emit_event(
        event,
        {"prefect.resource.id": f"fedllm.federation.{federation}", "prefect.resource.name": federation},
        related=related,
        payload=dict(payload),
        id=event_id,
    )


def emit_training_end(training: Training, event: str, payload: Mapping[str, object]) -> None:
    """Emit how a training ended. It may end again after a resume, so every such event has a new id."""
    emit(training.config.name, event, {"run": training.run, **payload}, run=training.run)


def emit_round_completed(training: Training, number: int, released: Released) -> None:
    """Emit that a round is complete: its quality on the coordinator's public set, and its version."""
    measured = training.journal.outcome(training.run, number, "evaluate", Evaluated)
    audited = training.journal.outcome(training.run, number, "dp-audit", Audited)
    metrics = measured.metrics if measured else {}
    payload = {
        "metrics": {name: value for name, value in metrics.items() if "/" not in name},
        "sites": [counted.site for counted in audited.counted] if audited else [],
        "version": released.version,
    }
    _emit_once(training, ROUND_COMPLETED, number, payload)


def emit_site_failures(training: Training, number: int, audited: Audited, absent: Mapping[str, str]) -> None:
    """Emit an event for each site whose update does not count, with the reason.

    Args:
        training: the training.
        number: the round.
        audited: the results of dp-audit.
        absent: sites without an update, and their status (declined or silent).
    """
    for verdict in audited.verdicts:
        if not verdict.accepted:
            name = SITE_LEFT_OUT if verdict.site in absent else SITE_FAILED
            payload = {"site": verdict.site, "reason": verdict.reason}
            _emit_once(training, name, number, payload, verdict.site)


def emit_low_budgets(training: Training, number: int) -> None:
    """Emit an event for each site with less than a tenth of its epsilon left, if rounds are unpaid.

    Each site's event is emitted once, in the first such round. A training that goes as planned ends near its
    whole epsilon, because its noise was chosen for that: this is no reason to warn. It runs short if failed
    rounds are repeated.
    """
    plan = privacy_plan(training)
    if plan is None:
        return
    closed = [n for n in range(1, number) if training.journal.outcome(training.run, n, "dp-audit", Audited)]
    before = _short_of_budget(training, closed[-1], plan) if closed else {}
    for site, spent in _short_of_budget(training, number, plan).items():
        if site not in before:
            _emit_low_budget(training, number, site, spent, plan)


def emit_spent_budgets(training: Training) -> None:
    """As `emit_low_budgets`, for a training whose privacy plan pays for no further round."""
    plan = privacy_plan(training)
    outcome, run = training.journal.outcome, training.run
    closed = [n for n in range(1, plan.rounds + 1) if outcome(run, n, "dp-audit", Audited)] if plan else []
    if plan is None or not closed:
        return
    before = _short_of_budget(training, closed[-1], plan)
    for site, spent in _low_budgets(training, closed[-1], plan).items():
        if site not in before:
            _emit_low_budget(training, closed[-1], site, spent, plan)


def _emit_low_budget(training: Training, number: int, site: str, spent: float, plan: PrivacyPlan) -> None:
    payload = {"site": site, "epsilon_spent": spent, "epsilon": plan.epsilon, "delta": plan.delta}
    _emit_once(training, BUDGET_LOW, number, payload, site)


def _short_of_budget(training: Training, number: int, plan: PrivacyPlan) -> dict[str, float]:
    """Return the epsilon spent by a round at each site with a low budget; empty if no round is unpaid."""
    journal, run = training.journal, training.run
    failed = sum(journal.outcome(run, n, "failed", FailedRound) is not None for n in range(1, number + 1))
    wanted = training.config.rounds.max
    return _low_budgets(training, number, plan) if plan.unpaid(wanted, failed) else {}


def _low_budgets(training: Training, number: int, plan: PrivacyPlan) -> dict[str, float]:
    """Return the epsilon spent by a round at each site with less than a tenth of its epsilon left."""
    spent = {site: verdict.epsilon for site, verdict in accounted(training, number).items()}
    threshold = (1 - LOW) * plan.epsilon
    return {site: used for site, used in spent.items() if used is not None and used > threshold}


def _emit_once(
    training: Training, event: str, number: int, payload: Mapping[str, object], site: str | None = None
) -> None:
    name, run = training.config.name, training.run
    event_id = uuid5(NAMESPACE_URL, f"fedllm:{name}/{run}/{number}/{event}/{site or ''}")
    emit(name, event, {"run": run, "round": number, **payload}, run=run, site=site, event_id=event_id)


def _related(resource: str, role: str, name: str) -> dict[str, str]:
    return {"prefect.resource.id": resource, "prefect.resource.role": role, "prefect.resource.name": name}

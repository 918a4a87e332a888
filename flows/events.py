"""What a federation tells Prefect: events for people and automations, with nothing private in them.

An event is about `fedllm.federation.NAME`; the training and the site that it concerns are related to it,
and Prefect adds the flow run by itself. What is told again after a resume has the same id.
"""

from collections.abc import Mapping
from uuid import NAMESPACE_URL, UUID, uuid5

from prefect.events import emit_event

from fedllm.coordinator.budget import accounted
from fedllm.coordinator.privacy_plan import privacy_plan
from fedllm.coordinator.training import Training
from fedllm.journal.outcomes import Audited, Evaluated, FailedRound, Released
from fedllm.protocol.terms import PrivacyPlan

ROUND_COMPLETED = "fedllm.round.completed"
TRAINING_COMPLETED = "fedllm.training.completed"
TRAINING_FAILED = "fedllm.training.failed"
TRAINING_CANCELLED = "fedllm.training.cancelled"
SITE_FAILED = "fedllm.site.failed"  # it tried, and said why it could not; or its update was refused
SITE_LEFT_OUT = "fedllm.site.left-out"  # it declined, or nothing came
BUDGET_LOW = "fedllm.budget.low"
SECURITY = "fedllm.security"  # messages were refused

LOW = 0.1  # of a training's epsilon: less left than this is low


def tell(  # noqa: PLR0913 - what an event is about, each named by the caller
    federation: str,
    event: str,
    payload: Mapping[str, object],
    *,
    run: str | None = None,
    site: str | None = None,
    event_id: UUID | None = None,
) -> None:
    """Send an event from a queue in the background; a Prefect that is away never hears it.

    Args:
        federation: whom it is about.
        event: its name.
        payload: what happened, for anybody who may look at this Prefect.
        run: the training that it concerns.
        site: the site that it concerns.
        event_id: of an event that may be told again; default: of its own.
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


def tell_of_training(training: Training, event: str, payload: Mapping[str, object]) -> None:
    """How a training ended. It may end again after a resume, so this has an id of its own."""
    tell(training.config.name, event, {"run": training.run, **payload}, run=training.run)


def tell_of_round(training: Training, number: int, released: Released) -> None:
    """A round is complete: its quality on the coordinator's own public set, and its version."""
    measured = training.journal.outcome(training.run, number, "evaluate", Evaluated)
    audited = training.journal.outcome(training.run, number, "dp-audit", Audited)
    metrics = measured.metrics if measured else {}
    payload = {
        "metrics": {name: value for name, value in metrics.items() if "/" not in name},
        "sites": [counted.site for counted in audited.counted] if audited else [],
        "version": released.version,
    }
    _once(training, ROUND_COMPLETED, number, payload)


def tell_of_sites(training: Training, number: int, audited: Audited, absent: Mapping[str, str]) -> None:
    """Whose update does not count, and why.

    Args:
        training: the training.
        number: the round.
        audited: what dp-audit found.
        absent: sites of which there is no update (declined or silent), with the word for that.
    """
    for verdict in audited.verdicts:
        if not verdict.accepted:
            name = SITE_LEFT_OUT if verdict.site in absent else SITE_FAILED
            told = {"site": verdict.site, "reason": verdict.reason}
            _once(training, name, number, told, verdict.site)


def tell_of_budgets(training: Training, number: int) -> None:
    """Each site with less than a tenth of a training's epsilon left, if more rounds are wanted than paid for.

    Told once, when that first is so. A training that goes as planned ends near its whole epsilon, for its
    noise was chosen so: nothing is to be stopped. It falls short where failed rounds are made up for.
    """
    plan = privacy_plan(training)
    if plan is None:
        return
    closed = [n for n in range(1, number) if training.journal.outcome(training.run, n, "dp-audit", Audited)]
    before = _short_of_budget(training, closed[-1], plan) if closed else {}
    for site, spent in _short_of_budget(training, number, plan).items():
        if site not in before:
            _tell_of_budget(training, number, site, spent, plan)


def tell_of_spent_budgets(training: Training) -> None:
    """As `tell_of_budgets`, of a training that may begin no other round: its privacy plan is used up."""
    plan = privacy_plan(training)
    outcome, run = training.journal.outcome, training.run
    closed = [n for n in range(1, plan.rounds + 1) if outcome(run, n, "dp-audit", Audited)] if plan else []
    if plan is None or not closed:
        return
    before = _short_of_budget(training, closed[-1], plan)
    for site, spent in _low_budgets(training, closed[-1], plan).items():
        if site not in before:
            _tell_of_budget(training, closed[-1], site, spent, plan)


def _tell_of_budget(training: Training, number: int, site: str, spent: float, plan: PrivacyPlan) -> None:
    told = {"site": site, "epsilon_spent": spent, "epsilon": plan.epsilon, "delta": plan.delta}
    _once(training, BUDGET_LOW, number, told, site)


def _short_of_budget(training: Training, number: int, plan: PrivacyPlan) -> dict[str, float]:
    """What each site with a low budget has spent by a round, if more rounds are wanted than were paid for."""
    journal, run = training.journal, training.run
    failed = sum(journal.outcome(run, n, "failed", FailedRound) is not None for n in range(1, number + 1))
    wanted = training.config.rounds.max
    return _low_budgets(training, number, plan) if plan.unpaid(wanted, failed) else {}


def _low_budgets(training: Training, number: int, plan: PrivacyPlan) -> dict[str, float]:
    """What each site with less than a tenth of its epsilon left has spent by a round."""
    spent = {site: verdict.epsilon for site, verdict in accounted(training, number).items()}
    low = (1 - LOW) * plan.epsilon
    return {site: mine for site, mine in spent.items() if mine is not None and mine > low}


def _once(
    training: Training, event: str, number: int, payload: Mapping[str, object], site: str | None = None
) -> None:
    name, run = training.config.name, training.run
    same = uuid5(NAMESPACE_URL, f"fedllm:{name}/{run}/{number}/{event}/{site or ''}")
    tell(name, event, {"run": run, "round": number, **payload}, run=run, site=site, event_id=same)


def _related(resource: str, role: str, name: str) -> dict[str, str]:
    return {"prefect.resource.id": resource, "prefect.resource.role": role, "prefect.resource.name": name}

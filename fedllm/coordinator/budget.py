"""What a training has cost its sites by a round, as its record shows it."""

from dataclasses import dataclass
from typing import Any

from fedllm.coordinator.ledgers import known_datasets, known_entries, known_heads
from fedllm.coordinator.outcomes import Audited, Evaluated
from fedllm.coordinator.privacy_plan import privacy_plan
from fedllm.coordinator.training import Training
from fedllm.exchange.messages import Verdict
from fedllm.privacy.chain import state_of
from fedllm.tracking.budget import budget_row, privacy_tags


@dataclass(frozen=True)
class Budget:
    """The parts of a release that are about privacy; all empty without DP but the tags, which say so."""

    privacy: dict[str, str]
    budget: list[dict[str, Any]]
    ledgers: dict[str, list[str]]
    epsilon_quality: list[dict[str, Any]]


def budget(training: Training, number: int) -> Budget:
    """Gather a run's privacy up to a round."""
    plan = privacy_plan(training)
    if plan is None:
        return Budget(privacy_tags(None, None, {}), [], {}, [])
    last = accounted(training, number)
    names = sorted(last)
    rows = [
        budget_row(
            site,
            spent=last[site].epsilon,
            budget=plan.epsilon,
            steps=_steps(training, site),
            verdict="accepted" if last[site].accepted else last[site].reason,
        )
        for site in names
    ]
    return Budget(
        privacy=privacy_tags(plan, _largest(last), known_heads(training.journal, names)),
        budget=rows,
        ledgers={site: lines for site in names if (lines := _lines(training, site))},
        epsilon_quality=_by_round(training, number),
    )


def spent(training: Training, number: int) -> float | None:
    """The largest epsilon of the run's sites after a round; None where no ledger could be checked."""
    return _largest(accounted(training, number))


def accounted(training: Training, number: int) -> dict[str, Verdict]:
    """The newest verdict on each site up to a round, with the newest epsilon that a ledger showed."""
    last: dict[str, Verdict] = {}
    for earlier in range(1, number + 1):
        done = training.journal.outcome(training.run, earlier, "dp-audit", Audited)
        for verdict in done.verdicts if done else ():
            before = last.get(verdict.site)
            if before is not None and verdict.epsilon is None:
                verdict = verdict.model_copy(update={"epsilon": before.epsilon})  # noqa: PLW2901 - the same one
            last[verdict.site] = verdict
    return last


def _largest(last: dict[str, Verdict]) -> float | None:
    return max((verdict.epsilon for verdict in last.values() if verdict.epsilon is not None), default=None)


def _by_round(training: Training, number: int) -> list[dict[str, Any]]:
    rows = []
    for earlier in range(1, number + 1):
        measured = training.journal.outcome(training.run, earlier, "evaluate", Evaluated)
        if measured is not None:
            metrics = {name: value for name, value in measured.metrics.items() if "/" not in name}
            rows.append({"round": earlier, "epsilon": spent(training, earlier), **metrics})
    return rows


def _lines(training: Training, site: str) -> list[str]:
    journal = training.journal
    return [
        entry.model_dump_json()
        for dataset in known_datasets(journal, site)
        for entry in known_entries(journal, site, dataset)
    ]


def _steps(training: Training, site: str) -> int | None:
    """Steps that a site's ledgers charge to this run."""
    charged = [
        reservation.charged
        for dataset in known_datasets(training.journal, site)
        for reservation in state_of(known_entries(training.journal, site, dataset)).reservations.values()
        if reservation.about(training.config.name, training.run)
    ]
    return sum(charged) if charged else None

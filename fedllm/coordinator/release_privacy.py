"""The privacy that a training has spent up to a round, as its MLflow record shows it."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fedllm.coordinator.privacy_plan import privacy_plan
from fedllm.coordinator.training import Training
from fedllm.journal.journal import Journal
from fedllm.journal.ledgers import chain_up_to, known_heads
from fedllm.journal.outcomes import Audited, Evaluated
from fedllm.privacy.chain import ChainState
from fedllm.protocol.messages import LedgerHead, Verdict
from fedllm.tracking.privacy_record import budget_row, privacy_tags
from fedllm.tracking.release import RoundRelease


@dataclass(frozen=True)
class ReleasePrivacy:
    """The privacy part of a queued release. Without DP all is empty except the tags, which say so.

    It names ledgers by their heads only: `with_ledgers` reads the entries when the release is published.
    """

    privacy: dict[str, str]
    rows: list[dict[str, Any]]
    ledger_heads: dict[str, list[dict[str, Any]]]


def budget(training: Training, number: int) -> ReleasePrivacy:
    """Return the privacy of a run up to a round."""
    plan = privacy_plan(training)
    if plan is None:
        return ReleasePrivacy(privacy_tags(None, None, {}), [], {})
    last = accounted(training, number)
    heads = known_heads(training.journal, sorted(last))
    rows = [
        budget_row(
            site,
            spent=last[site].epsilon,
            budget=plan.epsilon,
            steps=None,
            verdict="accepted" if last[site].accepted else last[site].reason,
        )
        for site in sorted(last)
    ]
    return ReleasePrivacy(
        privacy=privacy_tags(plan, _largest(last), heads),
        rows=rows,
        ledger_heads={site: [head.model_dump() for head in of_site] for site, of_site in heads.items()},
    )


def with_ledgers(journal: Journal, release: RoundRelease) -> RoundRelease:
    """Add ledgers, charged steps and epsilon by round from the journal to a queued release.

    A release that an earlier version of fedllm queued with its ledgers is returned unchanged.

    Raises:
        LedgerError: a ledger does not lead to the head that the release and its tag name.
    """
    if release.ledger_heads is None or not release.budget:
        return release
    ledgers, steps = {}, {}
    for site, named in release.ledger_heads.items():
        chains = [chain_up_to(journal, site, LedgerHead.model_validate(head)) for head in named]
        ledgers[site] = [entry.model_dump_json() for entries, _ in chains for entry in entries]
        steps[site] = _steps(release, [state for _, state in chains])
    return dataclasses.replace(
        release,
        ledgers=ledgers,
        budget=[row | {"steps": steps.get(row["site"])} for row in release.budget],
        epsilon_quality=_by_round(journal, release.run, release.round),
    )


def spent(training: Training, number: int) -> float | None:
    """Return the largest epsilon of the run's sites after a round; None if no ledger could be checked."""
    return _largest(accounted(training, number))


def accounted(training: Training, number: int) -> dict[str, Verdict]:
    """Return each site's newest verdict up to a round, with the newest epsilon that its ledger showed."""
    rounds = [newest for _, newest in _accounts(training.journal, training.run, number)]
    return rounds[-1] if rounds else {}


def _accounts(journal: Journal, run: str, last: int) -> Iterator[tuple[int, dict[str, Verdict]]]:
    """Yield each closed round up to `last`, in order, with the result of `accounted` for it."""
    newest: dict[str, Verdict] = {}
    for number, audited in journal.outcomes(run, "dp-audit", Audited, last).items():
        for verdict in audited.verdicts:
            before = newest.get(verdict.site)
            if before is not None and verdict.epsilon is None:
                verdict = verdict.model_copy(update={"epsilon": before.epsilon})  # noqa: PLW2901 - the same one
            newest[verdict.site] = verdict
        yield number, newest


def _largest(last: dict[str, Verdict]) -> float | None:
    return max((verdict.epsilon for verdict in last.values() if verdict.epsilon is not None), default=None)


def _by_round(journal: Journal, run: str, last: int) -> list[dict[str, Any]]:
    """Return epsilon and quality of each measured round; epsilon is as computed when the round was closed."""
    epsilon = {number: _largest(newest) for number, newest in _accounts(journal, run, last)}
    rows = []
    for number, measured in journal.outcomes(run, "evaluate", Evaluated, last).items():
        metrics = {name: value for name, value in measured.metrics.items() if "/" not in name}
        rows.append({"round": number, "epsilon": epsilon.get(number), **metrics})
    return rows


def _steps(release: RoundRelease, chains: list[ChainState]) -> int | None:
    """Return the steps that a site's ledgers charge to the release's training; None for no charge."""
    charged = [
        reservation.charged
        for chain in chains
        for reservation in chain.reservations.values()
        if reservation.about(release.federation, release.run)
    ]
    return sum(charged) if charged else None

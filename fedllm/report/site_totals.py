"""Sum up each site over all rounds of a training."""

from collections import Counter
from dataclasses import dataclass

from fedllm.journal.facts import SiteInRound, TrainingFacts
from fedllm.tracking.privacy_record import left_pct


@dataclass(frozen=True)
class SiteTotal:
    """The totals of one site over all rounds."""

    site: str
    asked: int  # rounds that it was asked to train in
    ends: Counter[str]  # how its rounds ended: counted, not counted, declined, failed, silent, refused
    bytes_up: int
    bytes_down: int
    newest: SiteInRound
    reason: str  # the newest reason of a round that did not count
    epsilon: float | None  # spent in this training, from the newest ledger it sent
    left_pct: float | None  # of the training's budget

    @property
    def counted(self) -> int:
        """Return the number of rounds whose update counted."""
        return self.ends["counted"]


def site_totals(facts: TrainingFacts) -> tuple[SiteTotal, ...]:
    """Return the totals of every site that was ever asked, sorted by name."""
    of_site: dict[str, list[SiteInRound]] = {}
    for entry in facts.rounds:
        for site in entry.sites:
            of_site.setdefault(site.site, []).append(site)
    return tuple(_total(facts, site, rows) for site, rows in sorted(of_site.items()))


def _total(facts: TrainingFacts, site: str, rows: list[SiteInRound]) -> SiteTotal:
    epsilon = next((row.epsilon for row in reversed(rows) if row.epsilon is not None), None)
    budget = facts.privacy.epsilon if facts.privacy else None
    return SiteTotal(
        site=site,
        asked=len(rows),
        ends=Counter(row.verdict for row in rows),
        bytes_up=sum(row.bytes_up for row in rows),
        bytes_down=sum(row.bytes_down for row in rows),
        newest=rows[-1],
        reason=next((row.reason for row in reversed(rows) if row.reason and not row.accepted), ""),
        epsilon=epsilon,
        left_pct=left_pct(epsilon, budget) if epsilon is not None and budget else None,
    )

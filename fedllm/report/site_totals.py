"""What each site did over a whole training."""

from collections import Counter
from dataclasses import dataclass

from fedllm.journal.facts import SiteInRound, TrainingFacts
from fedllm.tracking.budget import left_pct


@dataclass(frozen=True)
class SiteTotal:
    """One site over all rounds."""

    site: str
    asked: int  # rounds
    ends: Counter[str]  # how its rounds ended: counted, not counted, declined, failed, silent, refused
    bytes_up: int
    bytes_down: int
    newest: SiteInRound
    reason: str  # the newest one given for a round that did not count
    epsilon: float | None  # spent in this training, as its ledger showed last
    left_pct: float | None  # of the training's budget

    @property
    def counted(self) -> int:
        """Rounds whose update counted."""
        return self.ends["counted"]


def site_totals(facts: TrainingFacts) -> tuple[SiteTotal, ...]:
    """One total for every site that was ever asked, by name."""
    of_site: dict[str, list[SiteInRound]] = {}
    for one in facts.rounds:
        for site in one.sites:
            of_site.setdefault(site.site, []).append(site)
    return tuple(_total(facts, site, did) for site, did in sorted(of_site.items()))


def _total(facts: TrainingFacts, site: str, did: list[SiteInRound]) -> SiteTotal:
    epsilon = next((one.epsilon for one in reversed(did) if one.epsilon is not None), None)
    budget = facts.privacy.epsilon if facts.privacy else None
    return SiteTotal(
        site=site,
        asked=len(did),
        ends=Counter(one.verdict for one in did),
        bytes_up=sum(one.bytes_up for one in did),
        bytes_down=sum(one.bytes_down for one in did),
        newest=did[-1],
        reason=next((one.reason for one in reversed(did) if one.reason and not one.accepted), ""),
        epsilon=epsilon,
        left_pct=left_pct(epsilon, budget) if epsilon is not None and budget else None,
    )

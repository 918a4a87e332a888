"""The part of dp-audit that is about privacy: a site's ledger is checked and kept, its cost recomputed."""

from fedllm.coordinator.journal import Journal
from fedllm.coordinator.ledgers import keep_entries, known_entries
from fedllm.coordinator.outcomes import SiteOutcome
from fedllm.exchange.messages import LedgerHead, Plan, PublicKeys, Verdict
from fedllm.privacy.ledger_audit import Check, LedgerFinding, RoundTaken, audit_ledger
from fedllm.privacy.terms import PrivacyPlan, told_in_words
from fedllm.privacy.update_audit import LONGEST_REASON


def account_for(
    journal: Journal, plan: Plan, outcome: SiteOutcome, verdict: Verdict, keys: PublicKeys | None
) -> Verdict:
    """Add to a verdict what the site's ledger shows; an update that it does not cover does not count.

    Whatever a site spent is kept, whether its update counts or not.
    """
    privacy = plan.privacy
    assert privacy is not None  # noqa: S101 - the caller has looked
    finding = _finding(journal, plan, privacy, outcome, keys) if keys and outcome.ledger else None
    if finding is None:
        told = verdict.model_copy(update={"privacy": told_in_words(privacy, None)})
        if not verdict.accepted:
            return told
        return _refused(told, "it shows no ledger of what its update cost", {"chain": "fail"})
    head = None
    if finding.entries:
        keep_entries(journal, outcome.site, finding.entries)
        newest = finding.entries[-1]
        head = LedgerHead(dataset=newest.dataset, seq=newest.seq, sha256=newest.sha256)
    told = verdict.model_copy(
        update={
            "privacy": told_in_words(privacy, finding.epsilon),
            "epsilon": finding.epsilon,
            "ledger": head,
            "checks": dict(verdict.checks) | finding.checks,
        }
    )
    return _refused(told, finding.reason, {}) if finding.failed and told.accepted else told


def _finding(
    journal: Journal, plan: Plan, privacy: PrivacyPlan, outcome: SiteOutcome, keys: PublicKeys
) -> LedgerFinding:
    dataset = outcome.ledger[0].dataset
    known = known_entries(journal, outcome.site, dataset)
    steps = outcome.steps if outcome.status == "updated" else 0
    taken = RoundTaken(outcome.site, plan.federation, plan.run or "", plan.round, steps)
    return audit_ledger(taken, privacy, known, outcome.ledger, keys.verify)


def _refused(verdict: Verdict, reason: str, failed: dict[str, Check]) -> Verdict:
    checks = dict(verdict.checks) | failed
    return verdict.model_copy(update={"accepted": False, "reason": reason[:LONGEST_REASON], "checks": checks})

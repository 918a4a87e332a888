"""The part of dp-audit that is about privacy: a site's ledger is checked and kept, its cost recomputed."""

from fedllm.auditing.ledgers import (
    LEDGER_CHECKS,
    NOT_OBSERVABLE,
    Check,
    LedgerFinding,
    RoundTaken,
    audit_ledger,
)
from fedllm.auditing.updates import LONGEST_REASON
from fedllm.journal.journal import Journal
from fedllm.journal.ledgers import keep_entries, known_datasets, known_entries
from fedllm.journal.outcomes import SiteOutcome
from fedllm.privacy.chain import ChainState, state_of
from fedllm.protocol.messages import LedgerHead, Plan, PublicKeys, Verdict
from fedllm.protocol.terms import PrivacyPlan, told_in_words

# With a site as the unit, what is told of a check whose own reason quotes the update's norm.
_UNQUOTED = {
    "norm": "its norm is not one that the plan allows",
    "noise": "it holds less noise than the plan asks for",
}


def account_for(
    journal: Journal, plan: Plan, outcome: SiteOutcome, verdict: Verdict, keys: PublicKeys | None
) -> Verdict:
    """Add to a verdict what the site's ledger shows; an update that it does not cover does not count.

    Whatever a site spent is kept, whether its update counts or not.
    """
    privacy = plan.privacy
    assert privacy is not None  # noqa: S101 - the caller has looked
    if privacy.unit == "site":
        verdict = _without_norm(verdict)
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


def _without_norm(verdict: Verdict) -> Verdict:
    """A single update's norm holds a share of the noise alone: the coordinator's to know, no site's."""
    reason = next((told for check, told in _UNQUOTED.items() if verdict.checks.get(check) == "fail"), None)
    return verdict.model_copy(update={"norm": None, "reason": reason or verdict.reason})


def _finding(
    journal: Journal, plan: Plan, privacy: PrivacyPlan, outcome: SiteOutcome, keys: PublicKeys
) -> LedgerFinding:
    dataset = outcome.ledger[0].dataset
    known = known_entries(journal, outcome.site, dataset)
    for other in known_datasets(journal, outcome.site):
        chain = state_of(known_entries(journal, outcome.site, other)) if other != dataset else ChainState()
        if any(r.about(plan.federation, plan.run or "") for r in chain.reservations.values()):
            nothing = dict.fromkeys(LEDGER_CHECKS, NOT_OBSERVABLE)
            reason = f"its ledger of {other} accounts for this run already, now it shows that of {dataset}"
            return LedgerFinding({**nothing, "events": "fail"}, reason)
    steps = outcome.steps if outcome.status == "updated" else 0
    taken = RoundTaken(outcome.site, plan.federation, plan.run or "", plan.round, steps)
    return audit_ledger(taken, privacy, known, outcome.ledger, keys.verify)


def _refused(verdict: Verdict, reason: str, failed: dict[str, Check]) -> Verdict:
    checks = dict(verdict.checks) | failed
    return verdict.model_copy(update={"accepted": False, "reason": reason[:LONGEST_REASON], "checks": checks})

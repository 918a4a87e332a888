"""The privacy part of dp-audit: check and store a site's ledger, and recompute its cost."""

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

# Published reasons of checks whose own reason quotes the update's norm, where the unit is a site.
_UNQUOTED = {
    "norm": "its norm is outside what the plan allows",
    "noise": "it holds less noise than the plan asks for",
}


def account_for(
    journal: Journal, plan: Plan, outcome: SiteOutcome, verdict: Verdict, keys: PublicKeys | None
) -> Verdict:
    """Add the site's privacy cost to a verdict, and refuse an update that its ledger does not cover.

    The ledger is stored whether the update counts or not.
    """
    privacy = plan.privacy
    assert privacy is not None  # noqa: S101 - the caller has checked
    if privacy.unit == "site":
        verdict = _without_norm(verdict)
    finding = _finding(journal, plan, privacy, outcome, keys) if keys and outcome.ledger else None
    if finding is None:
        accounted = verdict.model_copy(update={"privacy": told_in_words(privacy, None)})
        if not verdict.accepted:
            return accounted
        return _refused(accounted, "it sent no privacy ledger for its update", {"chain": "fail"})
    head = None
    if finding.entries:
        keep_entries(journal, outcome.site, finding.entries)
        newest = finding.entries[-1]
        head = LedgerHead(dataset=newest.dataset, seq=newest.seq, sha256=newest.sha256)
    accounted = verdict.model_copy(
        update={
            "privacy": told_in_words(privacy, finding.epsilon),
            "epsilon": finding.epsilon,
            "ledger": head,
            "checks": dict(verdict.checks) | finding.checks,
        }
    )
    return _refused(accounted, finding.reason, {}) if finding.failed and accounted.accepted else accounted


def _without_norm(verdict: Verdict) -> Verdict:
    """Remove the update's norm: it carries only a share of the noise, so no site may learn it."""
    reason = next((text for check, text in _UNQUOTED.items() if verdict.checks.get(check) == "fail"), None)
    return verdict.model_copy(update={"norm": None, "reason": reason or verdict.reason})


def _finding(
    journal: Journal, plan: Plan, privacy: PrivacyPlan, outcome: SiteOutcome, keys: PublicKeys
) -> LedgerFinding:
    dataset = outcome.ledger[0].dataset
    stored = known_entries(journal, outcome.site, dataset)
    for other in known_datasets(journal, outcome.site):
        chain = state_of(known_entries(journal, outcome.site, other)) if other != dataset else ChainState()
        if any(r.about(plan.federation, plan.run or "") for r in chain.reservations.values()):
            nothing = dict.fromkeys(LEDGER_CHECKS, NOT_OBSERVABLE)
            reason = f"its ledger of {other} already accounts for this run, but now it sent that of {dataset}"
            return LedgerFinding({**nothing, "events": "fail"}, reason)
    steps = outcome.steps if outcome.status == "updated" else 0
    taken = RoundTaken(outcome.site, plan.federation, plan.run or "", plan.round, steps)
    return audit_ledger(taken, privacy, stored, outcome.ledger, keys.verify)


def _refused(verdict: Verdict, reason: str, failed: dict[str, Check]) -> Verdict:
    checks = dict(verdict.checks) | failed
    return verdict.model_copy(update={"accepted": False, "reason": reason[:LONGEST_REASON], "checks": checks})

"""Audit a site's signed ledger for one round: its chain, its events, and the epsilon of all of them.

The audit shows that nothing was edited, that the agreed steps were reserved and charged, and that they
compose to no more than the training may spend. It cannot detect a site that lies in its ledger.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fedllm.errors import LedgerError
from fedllm.privacy.accounting import Event, epsilon
from fedllm.privacy.chain import ChainState, LedgerEntry, Reservation, state_of, verify_chain
from fedllm.protocol.terms import PrivacyPlan

Check = Literal["pass", "fail", "not observable"]
LEDGER_CHECKS = ("chain", "events", "accounting")
NOT_OBSERVABLE: Check = "not observable"

_ROUNDING = 1.000001  # tolerance between two machines' arithmetic


@dataclass(frozen=True)
class LedgerFinding:
    """A verdict for each of LEDGER_CHECKS, and the epsilon that the training has cost its site so far."""

    checks: dict[str, Check]
    reason: str = ""  # of the first failed check
    epsilon: float | None = None
    entries: tuple[LedgerEntry, ...] = ()  # the whole chain; empty if it was not verified

    @property
    def failed(self) -> str | None:
        """Return the first failed check; None if there is none."""
        return next((name for name in LEDGER_CHECKS if self.checks[name] == "fail"), None)


@dataclass(frozen=True)
class RoundTaken:
    """One site's part in the round under audit."""

    site: str
    federation: str
    run: str
    number: int
    steps: int  # that the site reports; 0 if it sent no update


def audit_ledger(
    taken: RoundTaken,
    plan: PrivacyPlan,
    known: Sequence[LedgerEntry],
    shown: Sequence[LedgerEntry],
    verify_key: str,
) -> LedgerFinding:
    """Check the entries that a site shows against the privacy plan.

    Args:
        taken: the site's part in the round.
        plan: of the run.
        known: the chain as verified before.
        shown: the entries that the site shows now.
        verify_key: the site's Ed25519 key in the roster, hex.

    Returns:
        The verdicts; checks after a failed one stay `not observable`.
    """
    checks: dict[str, Check] = dict.fromkeys(LEDGER_CHECKS, "not observable")
    try:
        verify_chain(shown, verify_key, known)
    except LedgerError as error:
        return LedgerFinding(checks | {"chain": "fail"}, str(error))
    checks["chain"] = "pass"
    chain = (*known, *(entry for entry in shown if entry.seq >= len(known)))
    state = state_of(chain)
    if fault := _fault_of_events(taken, plan, state):
        return LedgerFinding(checks | {"events": "fail"}, fault, entries=chain)
    checks["events"] = "pass"
    spent = epsilon(_of_run(taken, state), plan.delta)
    if spent > plan.epsilon * _ROUNDING:
        reason = f"its ledger adds up to epsilon {spent:.6g}, the training may spend {plan.epsilon:.6g}"
        return LedgerFinding(checks | {"accounting": "fail"}, reason, spent, chain)
    return LedgerFinding(checks | {"accounting": "pass"}, epsilon=spent, entries=chain)


def _of_run(taken: RoundTaken, state: ChainState) -> list[Event]:
    """Return what was charged on the run's reservations, including charges that do not name the run."""
    mine = [r for r in state.reservations.values() if r.about(taken.federation, taken.run)]
    return [reservation.event(reservation.charged) for reservation in mine if reservation.charged]


def _fault_of_events(taken: RoundTaken, plan: PrivacyPlan, state: ChainState) -> str:
    if state.unit != plan.unit:
        return f"its ledger counts by {state.unit}, the privacy plan by {plan.unit}"
    mine = [r for r in state.reservations.values() if r.about(taken.federation, taken.run)]
    if not mine:
        return "its ledger has no reservation for this run"
    for reservation in mine:
        if fault := _fault_of_reservation(reservation, plan, taken.site):
            return fault
    due = min(taken.steps, 1) if plan.unit == "site" else taken.steps
    charges = state.charges.get((taken.federation, taken.run, taken.number), ())
    charged = sum(entry.steps or 0 for entry in charges)
    if charged < due:
        return f"its ledger charges {charged} steps of round {taken.number}, the update took {due}"
    return ""


def _fault_of_reservation(reservation: Reservation, plan: PrivacyPlan, site: str) -> str:
    context, terms = reservation.entry.context, plan.at(site)
    if context is not None and context.plan_sha256 != plan.sha256:
        return "its ledger reserved for another privacy plan"
    if reservation.event(0) != Event(terms.sampling_rate, terms.noise_multiplier, 0):
        return "its ledger reserved with another sampling rate or noise than the plan's"
    if reservation.entry.delta != plan.delta:
        return "its ledger reserved with another delta than the plan's"
    whole = plan.rounds * plan.steps
    if reservation.most != whole:
        return f"its ledger reserved {reservation.most} steps, the privacy plan has {whole}"
    return ""

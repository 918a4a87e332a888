"""A site's privacy accounts: check a plan against the budget, reserve its cost, and charge its rounds."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from fedllm.agent.job import public_reason
from fedllm.agent.policy import Decision
from fedllm.config import SiteConfig
from fedllm.data.forget import Forgotten
from fedllm.errors import BudgetError, DataError, IdentityError, RefusedError
from fedllm.exchange.mailbox import Received
from fedllm.privacy.accounting import Event
from fedllm.privacy.configured import whole_training
from fedllm.privacy.ledger import Ledger, Limits
from fedllm.privacy.site_ledger import dataset_of, site_ledger
from fedllm.protocol.entry import ChainHead, LedgerEntry
from fedllm.protocol.messages import Plan
from fedllm.protocol.terms import PrivacyPlan
from fedllm.secure.identity import Identity
from fedllm.text import one_line

log = logging.getLogger(__name__)

_ROUNDING = 1.000001  # tolerance for another machine's arithmetic


@dataclass(frozen=True)
class Accounts:
    """One site's ledger of its data set, for plans."""

    ledger: Ledger
    home: Path
    dataset: str
    site: str
    limits: Limits

    def objection(self, plan: Received[Plan]) -> Decision | None:
        """Reserve a plan's privacy; return a decline if withdrawals, budget or ledger forbid it."""
        asked, where = plan.message.privacy, (plan.message.round, plan.message.run)
        try:
            Forgotten.load(self.home)  # first: a training that cannot run must not be charged
            if asked is not None:
                self.reserve(plan, asked)
            elif self.is_private(plan.message):
                return Decision(
                    "decline", reason="the run began with privacy, this plan has none", event="refused"
                )
        except BudgetError as error:
            return Decision("decline", reason=one_line(str(error)), event="policy")
        except (RefusedError, DataError, IdentityError) as error:
            log.error("round %d of %s: %s", *where, error)  # noqa: TRY400 - the one line says all
            return Decision("decline", reason=one_line(public_reason(error)), event="refused")
        return None

    def reserve(self, plan: Received[Plan], asked: PrivacyPlan) -> None:
        """Reserve a training's full cost before its first step; further plans of the same run cost nothing.

        Raises:
            BudgetError: the data set's budget does not allow it.
            EquivocationError: the run had another privacy plan.
            LedgerError: the ledger was changed, or is not the one that the coordinator knows.
            RefusedError: the noise spends more than the plan's epsilon, or the round is already charged.
        """
        self.check(plan)
        if self.is_charged(plan.message):
            # One charge pays for one release. The charged round is not in this site's memory: another home of
            # the same owner took it, or this memory is an older copy.
            raise RefusedError("the round is in this site's ledger already: another copy trained it")
        event = whole_training(asked, self.site)
        spent = _epsilon(event, asked.delta)
        if spent > asked.epsilon * _ROUNDING:
            raise RefusedError(
                f"the privacy plan states epsilon {asked.epsilon:.6g}, but its noise spends {spent:.6g}"
            )
        self.ledger.reserve(
            self.dataset,
            asked.unit,
            federation=plan.message.federation,
            run=plan.message.run or "",
            plan_sha256=asked.sha256,
            event=event,
            delta=asked.delta,
            limit=self.limits,
        )

    def check(self, plan: Received[Plan]) -> None:
        """Check the ledger against the head that the coordinator has seen, and keep the signed plan as proof.

        Raises:
            LedgerError: the ledger lacks that head: it was rolled back, forked or lost.
        """
        for head in plan.message.ledgers.get(self.site, ()):
            if head.dataset == self.dataset:
                self.ledger.acknowledge(
                    self.dataset,
                    ChainHead(seq=head.seq, sha256=head.sha256),
                    plan.envelope,
                    federation=plan.message.federation,
                )

    def is_private(self, plan: Plan) -> bool:
        """Return whether the plan's run has reserved privacy here; such a run cannot go on without DP."""
        chain = self.ledger.state(self.dataset)
        return any(r.about(plan.federation, plan.run or "") for r in chain.reservations.values())

    def is_charged(self, plan: Plan) -> bool:
        """Return whether the ledger has a charge for the plan's round."""
        key = (plan.federation, plan.run or "", plan.round)
        return bool(self.ledger.state(self.dataset).charges.get(key))

    def is_released(self, plan: Plan) -> bool:
        """Return whether the ledger records a release of the plan's round, whatever memory holds."""
        return self.ledger.is_released(self.dataset, (plan.federation, plan.run or "", plan.round))

    def release(self, federation: str, run: str, number: int, update: bytes) -> None:
        """Record the update that a round's charge pays for; do nothing for a round without a charge.

        Raises:
            EquivocationError: the charge paid for another update.
        """
        place = (federation, run, number)
        if self.ledger.state(self.dataset).charges.get(place):
            self.ledger.release(self.dataset, place, hashlib.sha256(update).hexdigest())

    @property
    def history(self) -> bool:
        """Whether the data set was ever used in a training with DP."""
        return self.ledger.head(self.dataset) is not None

    def charge(self, plan: Plan, asked: PrivacyPlan, steps: int) -> None:
        """Charge a round's steps durably, before their noise is drawn; once, and without refund.

        Raises:
            BudgetError: more than was reserved.
            LedgerError: the ledger was changed.
        """
        self.ledger.charge(
            self.dataset,
            federation=plan.federation,
            run=plan.run or "",
            round=plan.round,
            first=0,
            steps=1 if asked.unit == "site" else steps,
        )

    def entries(self, plan: Plan) -> tuple[LedgerEntry, ...]:
        """Return the entries that the coordinator has not seen, without names of other federations' runs."""
        seen = [head.seq for head in plan.ledgers.get(self.site, ()) if head.dataset == self.dataset]
        after = max(seen, default=-1)
        return tuple(self.ledger.entries(self.dataset, after=after, show=plan.federation))


def open_accounts(site: SiteConfig, home: Path, identity: Identity) -> Accounts:
    """Open a site's accounts, in its home or in the folder that its file names for several homes."""
    limits = Limits(site.policy.total_epsilon, site.policy.max_delta)
    return Accounts(site_ledger(home, site, identity), home, dataset_of(site), site.name, limits)


def _epsilon(event: Event, delta: float) -> float:
    from fedllm.privacy.accounting import epsilon

    return epsilon([event], delta)

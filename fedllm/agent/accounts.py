"""A site's privacy accounts: what a plan costs, whether the budget allows it, and what was spent."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from fedllm.agent.policy import Decision
from fedllm.agent.worker import public_reason
from fedllm.config import SiteConfig
from fedllm.data.forget import Forgotten
from fedllm.errors import BudgetError, DataError, IdentityError, RefusedError
from fedllm.exchange.mailbox import Received
from fedllm.privacy.accounting import Event
from fedllm.privacy.configured import whole_training
from fedllm.privacy.ledger import Ledger, Limits
from fedllm.privacy.site_ledger import dataset_of, site_ledger
from fedllm.protocol.entry import Entry, Head
from fedllm.protocol.messages import Plan
from fedllm.protocol.terms import PrivacyPlan
from fedllm.secure.identity import Identity
from fedllm.text import one_line

log = logging.getLogger(__name__)

_ROUNDING = 1.000001  # between two machines' arithmetic


@dataclass(frozen=True)
class Accounts:
    """The ledger of one site, as its duty uses it."""

    ledger: Ledger
    home: Path
    dataset: str
    site: str
    limits: Limits

    def objection(self, plan: Received[Plan]) -> Decision | None:
        """A decline when withdrawals, the privacy budget or the ledger speak against a plan."""
        asked, where = plan.message.privacy, (plan.message.round, plan.message.run)
        try:
            Forgotten.load(self.home)  # before anything is charged for a training that cannot be
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
        """Set a training's full cost aside before its first step; again for a plan of the same run is free.

        Raises:
            BudgetError: the budget of the data set does not allow it.
            EquivocationError: the run had another privacy plan.
            LedgerError: the ledger is not the one that the coordinator knows, or was changed.
            RefusedError: the noise does not keep to the epsilon that the plan names.
        """
        self.check(plan)
        if self.is_charged(plan.message):
            # One charge pays for one release. This site's memory has no trace of the round that was paid for:
            # another home of the same owner took it, or the memory is an older one.
            raise RefusedError("the round is on this site's ledger already: it was taken elsewhere")
        event = whole_training(asked, self.site)
        spent = _epsilon(event, asked.delta)
        if spent > asked.epsilon * _ROUNDING:
            raise RefusedError(
                f"the privacy plan names epsilon {asked.epsilon:.6g}, its noise spends {spent:.6g}"
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
        """Hold the ledger against the head that the coordinator has seen, and keep its signed word for it.

        Raises:
            LedgerError: that head is not in this ledger: it was rolled back, forked or lost.
        """
        for head in plan.message.ledgers.get(self.site, ()):
            if head.dataset == self.dataset:
                self.ledger.acknowledge(
                    self.dataset,
                    Head(seq=head.seq, sha256=head.sha256),
                    plan.envelope,
                    federation=plan.message.federation,
                )

    def is_private(self, plan: Plan) -> bool:
        """Whether the plan's run has reserved privacy here: it cannot go on without."""
        chain = self.ledger.state(self.dataset)
        return any(r.about(plan.federation, plan.run or "") for r in chain.reservations.values())

    def is_charged(self, plan: Plan) -> bool:
        """Whether the plan's round is on the ledger."""
        key = (plan.federation, plan.run or "", plan.round)
        return bool(self.ledger.state(self.dataset).charges.get(key))

    def is_released(self, plan: Plan) -> bool:
        """Whether an update of the plan's round was about to leave, whatever this site's memory says."""
        return self.ledger.is_released(self.dataset, (plan.federation, plan.run or "", plan.round))

    def release(self, federation: str, run: str, number: int, update: bytes) -> None:
        """Note which update a round's charge pays for; a round without a charge has nothing to pay for.

        Raises:
            EquivocationError: it paid for another one.
        """
        charged = (federation, run, number)
        if self.ledger.state(self.dataset).charges.get(charged):
            self.ledger.release(self.dataset, charged, hashlib.sha256(update).hexdigest())

    @property
    def history(self) -> bool:
        """Whether the data set was ever trained on with privacy."""
        return self.ledger.head(self.dataset) is not None

    def charge(self, plan: Plan, asked: PrivacyPlan, steps: int) -> None:
        """Put a round's steps on record, durably, before their noise is drawn; never twice, never back.

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

    def entries(self, plan: Plan) -> tuple[Entry, ...]:
        """What the coordinator has not seen yet; other federations' runs are not named to it."""
        known = [head.seq for head in plan.ledgers.get(self.site, ()) if head.dataset == self.dataset]
        after = max(known, default=-1)
        return tuple(self.ledger.entries(self.dataset, after=after, show=plan.federation))


def open_accounts(site: SiteConfig, home: Path, identity: Identity) -> Accounts:
    """A site's accounts in its home, or where its file says that several homes share them."""
    limits = Limits(site.policy.total_epsilon, site.policy.max_delta)
    return Accounts(site_ledger(home, site, identity), home, dataset_of(site), site.name, limits)


def _epsilon(event: Event, delta: float) -> float:
    from fedllm.privacy.accounting import epsilon

    return epsilon([event], delta)

"""A site's privacy accounts: what a plan costs, whether the budget allows it, and what was spent."""

from dataclasses import dataclass
from pathlib import Path

from fedllm.config import SiteConfig
from fedllm.errors import RefusedError
from fedllm.exchange.mailbox import Received
from fedllm.exchange.messages import Plan
from fedllm.privacy.accounting import Event
from fedllm.privacy.entry import Entry, Head
from fedllm.privacy.ledger import Ledger, Limits
from fedllm.privacy.site_ledger import dataset_of, site_ledger
from fedllm.privacy.terms import PrivacyPlan
from fedllm.secure.identity import Identity

_ROUNDING = 1.000001  # between two machines' arithmetic


@dataclass(frozen=True)
class Accounts:
    """The ledger of one site, as its duty uses it."""

    ledger: Ledger
    dataset: str
    site: str
    limits: Limits

    def reserve(self, plan: Received[Plan], asked: PrivacyPlan) -> None:
        """Set a training's full cost aside before its first step; again for a plan of the same run is free.

        Raises:
            BudgetError: the budget of the data set does not allow it.
            EquivocationError: the run had another privacy plan.
            LedgerError: the ledger is not the one that the coordinator knows, or was changed.
            RefusedError: the noise does not keep to the epsilon that the plan names.
        """
        self.check(plan)
        event = self._whole(asked)
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

    def _whole(self, asked: PrivacyPlan) -> Event:
        """The training's full cost at this site."""
        mine = asked.at(self.site)
        steps = asked.rounds * (1 if asked.unit == "site" else asked.steps)
        return Event(mine.sampling_rate, mine.noise_multiplier, steps)


def open_accounts(site: SiteConfig, home: Path, identity: Identity) -> Accounts:
    """A site's accounts in its home, or where its file says that several homes share them."""
    limits = Limits(site.policy.total_epsilon, site.policy.max_delta)
    return Accounts(site_ledger(home, site, identity), dataset_of(site), site.name, limits)


def _epsilon(event: Event, delta: float) -> float:
    from fedllm.privacy.accounting import epsilon

    return epsilon([event], delta)

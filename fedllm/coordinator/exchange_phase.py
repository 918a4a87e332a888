"""A phase after the training: the coordinator queries every site whose update came, and waits for replies."""

from collections.abc import Callable
from dataclasses import dataclass

from fedllm.confidentiality.mode import Phase
from fedllm.coordinator.dispatch import read_plan
from fedllm.coordinator.round_view import view_of
from fedllm.coordinator.training import Training
from fedllm.coordinator.wait import GRACE, wait_for_site
from fedllm.errors import RefusedError
from fedllm.exchange.mailbox import expected_of
from fedllm.journal.outcomes import Dispatched, SiteOutcome
from fedllm.protocol.messages import COORDINATOR, Plan, PublicKeys, Query, Reply


def open_phase(training: Training, number: int, sites: tuple[str, ...], *, phase: Phase) -> None:
    """Publish a query per site, then point the head at the phase; after a crash, the same queries again.

    Args:
        training: the training.
        number: of the plan.
        sites: that the phase queries.
        phase: to open.
    """
    view = view_of(training, number)
    plan_sha256 = _plan_sha256(training, number)
    for site in sites:

        def query(site: str = site) -> Query:
            return Query(
                federation=view.plan.federation,
                sender=COORDINATOR,
                receiver=site,
                run=view.plan.run,
                round=number,
                roster_version=view.plan.roster_version,
                plan_sha256=plan_sha256,
                phase=phase.name,
                body=training.mode.coordinator.query(view, phase.name, site),
            )

        training.publish(training.layout.query(site, training.run, number, phase.name), query)
    training.point_head(number, plan_sha256, phase.name)


def exchange_phase(
    training: Training, number: int, site: str, say: Callable[[str], None], *, phase: Phase
) -> SiteOutcome:
    """Wait for one site's reply until the plan's deadline, and return the site's outcome."""
    plan = read_plan(training, number)
    return wait_for_site(training, plan, site, lambda keys: _ReplyWatch(training, plan, keys, phase), say)


@dataclass(frozen=True)
class _ReplyWatch:
    training: Training
    plan: Plan
    keys: PublicKeys
    phase: Phase

    def look(self) -> SiteOutcome | None:
        mail, run, number, site = self.training.mailbox, self.training.run, self.plan.round, self.keys.name
        key = self.training.layout.reply(site, run, number, self.phase.name)
        received = mail.find(key, Reply, self.keys, **expected_of(self.plan))
        if received is None:
            return None
        reply = received.message
        if (reply.plan_sha256, reply.phase) != (_plan_sha256(self.training, number), self.phase.name):
            raise RefusedError("replies to a plan or phase that is not this round's")
        if mail.store.stat(key).modified > self.plan.deadline + GRACE:
            return SiteOutcome(site=site, status="silent", reason="the reply came after the deadline")
        return SiteOutcome(site=site, status="updated", verify=self.keys.verify, reply=reply.body)


def _plan_sha256(training: Training, number: int) -> str:
    return training.journal.require(training.run, number, "dispatch", Dispatched).plan_sha256

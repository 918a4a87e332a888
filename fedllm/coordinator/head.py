"""Publish head.json, the one key that sites poll."""

from fedllm.coordinator.members import roster_of
from fedllm.exchange.mailbox import Mailbox
from fedllm.journal.journal import Journal
from fedllm.protocol.messages import COORDINATOR, EVERYONE, Head
from fedllm.secure.envelope import sign


def point_head(  # noqa: PLR0913 - what a head names
    journal: Journal,
    mailbox: Mailbox,
    run: str,
    number: int,
    plan_sha256: str | None,
    *,
    phase: str | None = None,
) -> bytes:
    """Publish a head that names a plan, or an idle one, and return its envelope.

    Args:
        journal: the federation's, under this coordinator's lease.
        mailbox: the coordinator's.
        run: the training.
        number: of the plan.
        plan_sha256: of the plan's envelope; None: idle, no plan is open.
        phase: the phase after the training whose queries are in the sites' inboxes; None: the training.

    Raises:
        LeaseError, CancelledError: this coordinator no longer leads.
    """
    counter = journal.next_head()
    assert journal.epoch is not None  # noqa: S101 - the caller holds the lease
    head = Head(
        federation=journal.federation,
        sender=COORDINATOR,
        receiver=EVERYONE,
        run=run,
        round=number,
        roster_version=roster_of(journal, mailbox.me).roster_version,
        counter=counter,
        epoch=journal.epoch,
        state="training" if plan_sha256 else "idle",
        plan_sha256=plan_sha256,
        phase=phase,
    )
    envelope = sign(head, mailbox.me)
    mailbox.store.put(mailbox.layout.head, envelope)
    return envelope

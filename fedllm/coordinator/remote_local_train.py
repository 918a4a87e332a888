"""Step 2, remote local-train: wait for one site's signed answer and update, until the deadline."""

import time
from collections.abc import Callable

from fedllm.coordinator.dispatch import read_plan
from fedllm.coordinator.training import Training
from fedllm.coordinator.wait import GRACE, wait_for_site
from fedllm.errors import ObjectNotFoundError, RefusedError
from fedllm.exchange.mailbox import Received, expected_of
from fedllm.journal.outcomes import Dispatched, SiteOutcome
from fedllm.milestones import SiteStep, report
from fedllm.protocol.messages import Answer, Card, Plan, PublicKeys, Update
from fedllm.text import one_line

PROGRESS = 2.0  # s between looks at a site's card


def remote_local_train(training: Training, number: int, site: str, say: Callable[[str], None]) -> SiteOutcome:
    """Wait for one site's answer and update, and return the site's outcome.

    Args:
        training: the training.
        number: of the plan, from 1.
        site: its name.
        say: called with lines of progress.
    """
    plan = read_plan(training, number)
    return wait_for_site(
        training, plan, site, lambda keys: _UpdateWatch(training, plan, keys, number, say), say
    )


class _UpdateWatch:
    """Reads one site's objects of one round."""

    def __init__(
        self, training: Training, plan: Plan, keys: PublicKeys, number: int, say: Callable[[str], None]
    ) -> None:
        self._training, self._plan, self._keys, self._number, self._say = training, plan, keys, number, say
        self._answer: Answer | None = None
        self._reported_step = -1
        self._card_etag: str | None = None
        self._card_due = 0.0  # by our monotonic clock

    def look(self) -> SiteOutcome | None:
        """Return the site's outcome, or None while it is still at work."""
        mail, layout, run = self._training.mailbox, self._training.layout, self._training.run
        site, number = self._keys.name, self._number
        if self._answer is None:
            received = mail.find(
                layout.answer(site, run, number), Answer, self._keys, **expected_of(self._plan)
            )
            if received is None:
                return None
            self._answer = received.message
            self._check_plan(received.message.plan_sha256)
            if received.message.decision == "decline":
                return SiteOutcome(site=site, status="declined", reason=one_line(received.message.reason))
            explanation = one_line(received.message.reason)
            self._say(f"{site}: {received.message.decision}, {received.message.steps} steps {explanation}")
            report(SiteStep(number, site, 0, received.message.steps))
        key = layout.update(site, run, number)
        update = mail.find(key, Update, self._keys, **expected_of(self._plan))
        if update is None:
            self._show_progress()
            return None
        self._check_plan(update.message.plan_sha256)
        if mail.store.stat(key).modified > self._plan.deadline + GRACE:
            return SiteOutcome(site=site, status="silent", reason="the update came after the deadline")
        return self._outcome(update)

    def _check_plan(self, plan_sha256: str) -> None:
        journal, run = self._training.journal, self._training.run
        dispatched = journal.require(run, self._number, "dispatch", Dispatched)
        if plan_sha256 != dispatched.plan_sha256:
            raise RefusedError("answers a plan that is not this round's")

    def _outcome(self, received: Received[Update]) -> SiteOutcome:
        site, update = self._keys.name, received.message
        assert self._answer is not None  # noqa: S101 - read before the update
        if update.failed is not None or update.payload is None:
            return SiteOutcome(
                site=site,
                status="failed",
                reason=one_line(update.failed or "no payload"),
                update_sha256=received.sha256,
                verify=self._keys.verify,
                ledger=update.ledger,
            )
        expected = self._training.layout.payload(site, self._training.run, self._number)
        if update.payload.key != expected:
            raise RefusedError("the payload is not stored under the site's key for this round")
        if update.steps > min(self._answer.steps, self._plan.local.steps):
            raise RefusedError(f"reports {update.steps} steps, but promised {self._answer.steps}")
        private = self._plan.privacy is not None  # under DP these are dropped, even if a site sends them
        return SiteOutcome(
            site=site,
            status="updated",
            update_sha256=received.sha256,
            verify=self._keys.verify,
            payload=update.payload,
            steps=update.steps,
            examples=None if private else update.examples,
            loss=None if private else update.loss,
            seconds=None if private else update.seconds,
            ledger=update.ledger,
        )

    def _show_progress(self) -> None:
        """Report the site's progress from its card; the card is advisory, so ignore faults in it."""
        if time.monotonic() < self._card_due:
            return
        self._card_due = time.monotonic() + PROGRESS
        mail, layout = self._training.mailbox, self._training.layout
        try:
            changed = mail.store.get_if_changed(
                layout.card(self._keys.name), self._card_etag, limit=Card.largest
            )
            if changed is None:
                return
            self._card_etag = changed[1]
            card = mail.open(changed[0], Card, self._keys).message
        except (ObjectNotFoundError, RefusedError):
            return
        at = card.progress
        if at and (at.run, at.round) == (self._training.run, self._number) and at.step > self._reported_step:
            self._reported_step = at.step
            self._say(f"{self._keys.name}: step {at.step} of {at.steps}")
            report(SiteStep(self._number, self._keys.name, at.step, at.steps))

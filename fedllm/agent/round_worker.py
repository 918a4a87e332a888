"""One site's work in one round: answer, train, commit."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedllm.agent.accounts import Accounts
from fedllm.agent.answers import Answers, head_of
from fedllm.agent.folder import WorkFolder, write_own
from fedllm.agent.head_watcher import STORE
from fedllm.agent.held_base import HeldBase
from fedllm.agent.job import Failed, Finished, Job, StepDone, failure, is_explained
from fedllm.agent.join import Membership
from fedllm.agent.memory import Memory
from fedllm.agent.new_job import new_job
from fedllm.agent.policy import training_end
from fedllm.agent.record_check import RecordCheck
from fedllm.agent.residuals import keep_residual
from fedllm.agent.trainers import Trainer
from fedllm.confidentiality.modes import MODES
from fedllm.disk import is_full
from fedllm.errors import (
    EquivocationError,
    ExchangeError,
    FedllmError,
    LedgerError,
    ObjectNotFoundError,
    RefusedError,
)
from fedllm.exchange.clock import StoreClock
from fedllm.exchange.mailbox import Mailbox, Received
from fedllm.logs import about, wants_json
from fedllm.protocol import messages
from fedllm.protocol.messages import Plan, Update
from fedllm.secure.envelope import sign

log = logging.getLogger(__name__)

ATTEMPTS = 3  # starts of a training process that dies; nothing is released before the commit


@dataclass
class RoundWorker:
    """Works on plans: answers, trains and commits. One job at a time; the caller polls."""

    member: Membership
    mailbox: Mailbox
    memory: Memory
    accounts: Accounts
    trainer: Trainer
    base: HeldBase
    clock: StoreClock
    folder: WorkFolder
    current: Received[Plan] | None = None
    job: Job | None = None
    attempt: int = 0
    progress: messages.Progress | None = None
    _end: tuple[float, str] | None = None  # when the policy ends the job, by the store's clock, and why
    _begun: float | None = None  # the job, by our monotonic clock
    _outcome: Finished | Failed | None = None  # of the job, until it is committed

    def __post_init__(self) -> None:
        records = RecordCheck.of(self.member)
        self._answers = Answers(
            self.member, self.mailbox, self.memory, self.accounts, self.base, self.clock, records
        )

    @property
    def _name(self) -> str:
        return self.member.site.name

    def consider(self, plan: Received[Plan], roster: Mapping[str, str]) -> bool:
        """Answer a plan of head.json once, and start or resume its work.

        Args:
            plan: its signature is checked.
            roster: fingerprints of the members, by name.

        Returns:
            False while another plan is under way here: call again when it has ended.

        Raises:
            EquivocationError: this round had another plan.
            ExchangeError: the store does not answer; call again.
        """
        with about(run=plan.message.run, round=plan.message.round):
            return self._take_up(plan, roster)

    def _take_up(self, plan: Received[Plan], roster: Mapping[str, str]) -> bool:
        asked = plan.message
        run = asked.run or ""
        recorded = self.memory.work(run, asked.round)
        work = recorded or self._answers.reserve(plan, roster)
        if work.plan_sha256 != plan.sha256:
            raise EquivocationError(f"a second plan for round {asked.round} of {run}: the first one holds")
        if work.state != "released":
            self.mailbox.store.put(self.mailbox.layout.answer(self._name, run, asked.round), work.answer)
        if work.state != "reserved" or self.clock.now() >= asked.deadline:
            return True
        if self.current is not None:
            return self.current.sha256 == plan.sha256
        if recorded and self._answers.was_made(asked):
            self.memory.give_up(run, asked.round)
            return True
        self.attempt = 0
        self._start(plan, self._answers.promised(work.answer))
        return True

    def _start(self, plan: Received[Plan], steps: int) -> None:
        asked = plan.message
        run, number = asked.run or "", asked.round
        self._end = training_end(self.member.site.policy, self.clock.now(), self.memory.spent(run))
        self.current, self.progress = plan, None
        self.job = new_job(asked, steps, self.member, self.base, self.folder, self.memory)
        try:
            write_own(self.job.model, self._fetch_model(asked))
            if asked.privacy is not None:
                self.accounts.charge(asked, asked.privacy, steps)
            self.attempt += 1
            self._begun = time.monotonic()
            self.trainer.start(self.job)
        except ExchangeError:
            self._clear()  # the store does not answer: the plan is tried again
            raise
        except (FedllmError, OSError) as error:
            if is_full(error):
                self._clear()  # the plan is tried again when there is room
                raise
            if not is_explained(error):
                log.exception("round %d of %s could not begin", number, run)
            self._finish(failure(error))

    def _fetch_model(self, asked: Plan) -> bytes:
        """Download the plan's model; record a bad or missing one as a security event."""
        security = self.memory.security
        try:
            return self.mailbox.fetch_payload(asked.model)
        except RefusedError as error:
            security.refused(error, STORE, asked.run, asked.round)
            raise
        except ObjectNotFoundError as error:
            security.record("refused", STORE, str(error), asked.run, asked.round)
            raise

    def poll(self) -> bool:
        """Handle the trainer's events; return whether a job is under way."""
        asked = self.current.message if self.current else None
        with about(**({"run": asked.run, "round": asked.round} if asked else {})):
            return self._poll()

    def _poll(self) -> bool:
        if self.current is not None and self.clock.now() > self.current.message.deadline:
            late = self.current.message
            log.warning("round %d of %s: the deadline has passed, training stopped", late.round, late.run)
            self.stop()
        if (
            self.current is not None
            and self._end is not None
            and self._outcome is None
            and self.clock.now() > self._end[0]
        ):
            self.trainer.cancel()
            self._finish(
                _public_outcome(Failed(self._end[1]), private=self.current.message.privacy is not None)
            )
        while self.current is not None and (event := self._outcome or self.trainer.poll()) is not None:
            asked = self.current.message
            if isinstance(event, StepDone):
                if event.step == 1 and self._begun is not None:
                    log.info(
                        "round %d of %s: the first step was done %.1f s after the plan",
                        *(asked.round, asked.run, time.monotonic() - self._begun),
                    )
                if asked.privacy is not None:
                    continue  # the pace of steps reveals how many records they drew
                self.progress = messages.Progress(
                    run=asked.run or "", round=asked.round, step=event.step, steps=event.steps
                )
            elif isinstance(event, Failed) and event.died and self.attempt < ATTEMPTS and self.job:
                log.warning("round %d of %s: %s; trying again", asked.round, asked.run, event.reason)
                self.attempt += 1
                self.trainer.start(self.job)
            else:
                self._finish(_public_outcome(event, private=asked.privacy is not None))
        return self.current is not None

    def _finish(self, event: Finished | Failed) -> None:
        """Commit the outcome of a job; if the disk is full, the next poll tries again."""
        self._outcome = event
        asked = self.current.message if self.current else None
        recorded = self.memory.work(asked.run or "", asked.round) if asked else None
        if recorded is None or recorded.state == "reserved":  # else the disk was full just after the commit
            self._commit(event)
        self._clear()

    def _commit(self, event: Finished | Failed) -> None:
        """Write the signed update and its sealed payload to the site's disk; the outbox sends them."""
        assert self.current is not None  # noqa: S101 - the caller holds a job
        asked, plan_sha256 = self.current.message, self.current.sha256
        run = asked.run or ""
        try:
            ledger = self.accounts.entries(asked) if asked.privacy else ()
        except LedgerError as error:  # an update without a valid ledger is not sent
            ledger, event = (), failure(error)
        fields: dict[str, Any] = {"plan_sha256": plan_sha256, "ledger": ledger}
        if isinstance(event, Failed):
            # JSON logs leave the site, so they must not quote records.
            why = event.reason if wants_json() or not event.detail else event.detail
            log.error("round %d of %s: training failed: %s", asked.round, run, why)
            fields["failed"] = event.reason[:2000]
        else:
            fields["steps"] = event.steps
            fields["payload"] = MODES[asked.confidentiality].site.conceal(
                asked,
                self.folder.update(run, asked.round).read_bytes(),
                self.mailbox.layout.payload(self._name, run, asked.round),
                self.folder.sealed(run, asked.round),
            )
            if asked.privacy is None:  # under DP an update has no other field that depends on records
                fields |= {"examples": event.examples, "loss": event.loss, "seconds": event.seconds}
        update = Update(**head_of(asked, self._name), **fields)
        described = update.payload.model_dump_json() if update.payload else None
        self.memory.commit(run, asked.round, sign(update, self.mailbox.me), described)

    def stop(self) -> None:
        """Cancel the job under way; committed updates stay."""
        if self.current is not None:
            self.trainer.cancel()
            self._clear()

    def _clear(self) -> None:
        if self.current is not None and self._begun is not None:
            self.memory.trained(self.current.message.run or "", time.monotonic() - self._begun)
        if self.job is not None:
            self.job.model.unlink(missing_ok=True)
            self.job.output.unlink(missing_ok=True)
        if self.current is not None:
            keep_residual(self.folder, self.memory, self.current.message.run)
        self.current = self.job = self.progress = self._begun = self._outcome = None


def _public_outcome(event: Finished | Failed, *, private: bool) -> Finished | Failed:
    """Return the outcome to publish; under DP without a failure's reason, which may depend on records."""
    if not private or not isinstance(event, Failed):
        return event
    return Failed("training failed; the site's own log says why", detail=event.detail or event.reason)

"""One site's work in one round: decide, answer, train, commit, release."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm.agent.join import Membership
from fedllm.agent.memory import Memory
from fedllm.agent.policy import decide
from fedllm.agent.worker import Failed, Finished, Job, Progress, Trainer, public_reason, site_seed
from fedllm.errors import ExchangeError, FedllmError, RefusedError
from fedllm.exchange import messages
from fedllm.exchange.clock import StoreClock
from fedllm.exchange.mailbox import Mailbox, Received, seal_to_file
from fedllm.exchange.messages import Answer, Plan, Sealed, Update
from fedllm.models.base import resolve_base
from fedllm.secure.envelope import open_envelope, sign

log = logging.getLogger(__name__)

ATTEMPTS = 3  # a training process that dies is started again; before commit nothing was released


@dataclass
class Duty:
    """What a site does about plans. One job at a time; the caller polls."""

    member: Membership
    mailbox: Mailbox
    memory: Memory
    trainer: Trainer
    base_sha256: str
    clock: StoreClock
    peers: frozenset[str] = frozenset()  # names in the newest roster
    current: Received[Plan] | None = None
    job: Job | None = None
    attempt: int = 0
    progress: messages.Progress | None = None

    @property
    def _name(self) -> str:
        return self.member.site.name

    def consider(self, plan: Received[Plan]) -> None:
        """Take up a plan that head.json points at: answer it once, go on where a crash left it."""
        asked = plan.message
        run = asked.run or ""
        known = self.memory.work(run, asked.round)
        if known is not None and known.plan_sha256 != plan.sha256:
            raise RefusedError(
                f"security: a second plan for round {asked.round} of {run}; the first one holds"
            )
        if known is None:
            decision = decide(
                asked,
                self.member.site.policy,
                site=self._name,
                peers=self.peers,
                base_sha256=self.base_sha256,
                now=self.clock.now(),
            )
            answer = Answer(
                **self._head(asked),
                plan_sha256=plan.sha256,
                decision=decision.kind,
                steps=decision.steps,
                reason=decision.reason,
            )
            declined = decision.kind == "decline"
            envelope = sign(answer, self.mailbox.me)
            self.memory.reserve(run, asked.round, plan.sha256, envelope, declined=declined)
            known = self.memory.work(run, asked.round)
            log.info("round %d of %s: %s %s", asked.round, run, decision.kind, decision.reason)
        assert known is not None  # noqa: S101 - reserved just now
        if known.state != "released":
            self.mailbox.store.put(self.mailbox.layout.answer(self._name, run, asked.round), known.answer)
        if known.state == "reserved" and self.current is None and self.clock.now() < asked.deadline:
            self.attempt = 0
            self._start(plan, self._promised(known.answer))

    def _promised(self, envelope: bytes) -> int:
        """Steps that the answer on record promised."""
        keys = self.mailbox.me.public
        layout = self.mailbox.layout
        answer = open_envelope(envelope, Answer, keys, federation=layout.federation, sender=self._name)
        return answer.steps

    def _start(self, plan: Received[Plan], steps: int) -> None:
        asked = plan.message
        folder = self.member.home / "work"
        folder.mkdir(exist_ok=True)
        stem = f"{asked.run}-{asked.round}"
        model = folder / f"{stem}.model"
        site = self.member.site
        self.current, self.progress = plan, None
        try:
            model.write_bytes(self.mailbox.fetch_payload(asked.model))
            self.job = Job(
                base=resolve_base(site.base),
                data=site.data,
                model=model,
                output=folder / f"{stem}.update",
                adapter=asked.adapter,
                adapter_seed=asked.seed,
                layout_sha256=asked.layout_sha256,
                frozen_sha256=asked.frozen_sha256,
                task=asked.task,
                local=asked.local,
                steps=steps,
                round=asked.round,
                rounds=asked.rounds,
                seed=site_seed(asked.seed, self._name),
                threads=site.threads,
            )
            self.attempt += 1
            self.trainer.start(self.job)
        except ExchangeError:
            self.current = None  # the store is away: the plan is taken up again
            raise
        except (FedllmError, OSError) as error:
            log.exception("round %d of %s could not begin", asked.round, asked.run)
            self._commit(Failed(public_reason(error)))

    def poll(self) -> bool:
        """Take in what the trainer says; True while a job is under way."""
        if self.current is not None and self.clock.now() > self.current.message.deadline:
            late = self.current.message
            log.warning("round %d of %s: the deadline has passed, training stopped", late.round, late.run)
            self.stop()
        while self.current is not None and (event := self.trainer.poll()) is not None:
            asked = self.current.message
            if isinstance(event, Progress):
                self.progress = messages.Progress(
                    run=asked.run or "", round=asked.round, step=event.step, steps=event.steps
                )
            elif isinstance(event, Failed) and event.died and self.attempt < ATTEMPTS and self.job:
                log.warning("round %d of %s: %s; trying again", asked.round, asked.run, event.reason)
                self.attempt += 1
                self.trainer.start(self.job)
            else:
                self._commit(event)
        return self.current is not None

    def _commit(self, event: Finished | Failed) -> None:
        """Put bytes and hash on the site's own disk, then show them."""
        assert self.current is not None  # noqa: S101 - the caller holds a job
        asked, plan_sha256 = self.current.message, self.current.sha256
        run = asked.run or ""
        if isinstance(event, Failed):
            log.error("round %d of %s failed: %s", asked.round, run, event.reason)
            update = Update(**self._head(asked), plan_sha256=plan_sha256, failed=event.reason[:2000])
            payload: Sealed | None = None
        else:
            assert self.job is not None  # noqa: S101 - it just finished
            payload = seal_to_file(
                self.job.output.read_bytes(),
                [self.member.invitation.coordinator.recipient],
                self.mailbox.layout.payload(self._name, run, asked.round),
                self._sealed_path(run, asked.round),
            )
            update = Update(
                **self._head(asked),
                plan_sha256=plan_sha256,
                payload=payload,
                steps=event.steps,
                examples=event.examples,
                loss=event.loss,
                seconds=event.seconds,
            )
        described = payload.model_dump_json() if payload else None
        self.memory.commit(run, asked.round, sign(update, self.mailbox.me), described)
        self._clear()

    def release(self, run: str, number: int) -> None:
        """Upload committed bytes: the payload first, then the message that names its hash."""
        work = self.memory.work(run, number)
        if work is None or work.update is None:
            raise RefusedError(f"round {number} of {run} has no update to release")
        if work.payload is not None:
            sealed = Sealed.model_validate_json(work.payload)
            self.mailbox.send_payload(self._sealed_path(run, number), sealed)
        self.mailbox.store.put(self.mailbox.layout.update(self._name, run, number), work.update)
        self.memory.release(run, number)
        self._sealed_path(run, number).unlink(missing_ok=True)
        log.info("round %d of %s: update released", number, run)

    def release_committed(self) -> None:
        """Send what is committed, again until the store has it."""
        for work in self.memory.committed():
            try:
                self.release(work.run, work.round)
            except (ExchangeError, OSError) as error:
                # It stays committed and is tried again; it must not keep the site from anything else.
                log.warning("round %d of %s is not sent yet: %s", work.round, work.run, error)

    def stop(self) -> None:
        """Give up the job under way; what was committed stays."""
        if self.current is not None:
            self.trainer.cancel()
            self._clear()

    def _clear(self) -> None:
        if self.job is not None:
            self.job.model.unlink(missing_ok=True)
            self.job.output.unlink(missing_ok=True)
        self.current = self.job = self.progress = None

    def _sealed_path(self, run: str, number: int) -> Path:
        return self.member.home / "work" / f"{run}-{number}.sealed"

    def _head(self, plan: Plan) -> dict[str, Any]:
        """The head that every message of this round carries."""
        return {
            "federation": plan.federation,
            "sender": self._name,
            "receiver": messages.COORDINATOR,
            "run": plan.run,
            "round": plan.round,
            "roster_version": plan.roster_version,
        }

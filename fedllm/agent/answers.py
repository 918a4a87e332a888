"""A site's answers to plans: decided once, and recorded before they are sent."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedllm.agent.accounts import Accounts
from fedllm.agent.held_base import HeldBase
from fedllm.agent.join import Membership
from fedllm.agent.memory import Memory, Work
from fedllm.agent.plan_faults import fault_of
from fedllm.agent.policy import Decision, decide, promised_bytes
from fedllm.agent.record_check import RecordCheck
from fedllm.exchange.clock import StoreClock
from fedllm.exchange.mailbox import Mailbox, Received
from fedllm.protocol import messages
from fedllm.protocol.messages import Answer, Plan
from fedllm.secure.envelope import open_envelope, sign

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answers:
    """Answers plans by a site's policy, accounts and memory."""

    member: Membership
    mailbox: Mailbox
    memory: Memory
    accounts: Accounts
    base: HeldBase
    clock: StoreClock
    records: RecordCheck

    @property
    def _name(self) -> str:
        return self.member.site.name

    def was_made(self, asked: Plan) -> bool:
        """Return whether a round's update already exists although memory does not know it.

        Then this memory is an older copy that was restored. A second update would have other bytes, which is
        equivocation; under DP it would draw new noise under the one charge of the first. The store may hide
        an update; under DP the ledger shows it as well.
        """
        run, number = asked.run or "", asked.round
        layout = self.mailbox.layout
        keys = (layout.payload(self._name, run, number), layout.update(self._name, run, number))
        on_ledger = asked.privacy is not None and self.accounts.is_released(asked)
        if not on_ledger and not any(self.mailbox.has(key) for key in keys):
            return False
        log.error("round %d of %s was sent before: this site's memory is an older copy", number, run)
        return True

    def reserve(self, plan: Received[Plan], roster: Mapping[str, str]) -> Work:
        """Decide about a plan, record the signed answer before it is sent, and return the record."""
        asked = plan.message
        run = asked.run or ""
        decision = decide(
            asked,
            self.member.site.policy,
            site=self._name,
            roster=roster,
            base_sha256=self.base.sha256,
            now=self.clock.now(),
            spent=self.memory.spent(run),
            fault=fault_of(asked, self.mailbox.layout, self.base, roster),
        )
        if decision.kind != "decline":
            decision = self.accounts.objection(plan) or decision
        if decision.kind != "decline" and asked.privacy is None:
            decision = self.records.objection(asked.task) or decision
        if decision.kind != "decline" and self.was_made(asked):
            decision = Decision(
                "decline", reason="the round's update was sent already: this memory is older", event="refused"
            )
        if decision.event:
            party = messages.COORDINATOR
            self.memory.security.record(decision.event, party, decision.reason, run, asked.round)
        answer = Answer(
            **head_of(asked, self._name),
            plan_sha256=plan.sha256,
            decision=decision.kind,
            steps=decision.steps,
            reason=decision.reason,
        )
        declined = decision.kind == "decline"
        size = 0 if declined else promised_bytes(asked)
        why = f" ({decision.reason})" if decision.reason else ""
        log.info("round %d of %s: %s%s", asked.round, run, decision.kind, why)
        envelope = sign(answer, self.mailbox.me)
        return self.memory.reserve(run, asked.round, plan.sha256, envelope, declined=declined, size=size)

    def promised(self, envelope: bytes) -> int:
        """Return the number of steps that a recorded answer promised."""
        keys = self.mailbox.me.public
        layout = self.mailbox.layout
        answer = open_envelope(envelope, Answer, keys, federation=layout.federation, sender=self._name)
        return answer.steps


def head_of(plan: Plan, site: str) -> dict[str, Any]:
    """Return the header fields of a site's message about a plan."""
    return {
        "federation": plan.federation,
        "sender": site,
        "receiver": messages.COORDINATOR,
        "run": plan.run,
        "round": plan.round,
        "roster_version": plan.roster_version,
    }

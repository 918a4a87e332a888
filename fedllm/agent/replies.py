"""A site's replies in the phases after the training, by the plan's mode of confidentiality."""

import logging
from dataclasses import dataclass

from fedllm.agent.answers import head_of
from fedllm.agent.join import Membership
from fedllm.agent.memory import Memory
from fedllm.confidentiality.modes import MODES
from fedllm.errors import RefusedError
from fedllm.exchange.mailbox import Mailbox, Received
from fedllm.protocol.messages import Plan, Query, Reply
from fedllm.secure.envelope import sign

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Replies:
    """Replies to queries: makes each reply once, commits it, and uploads it again if the store loses it."""

    member: Membership
    mailbox: Mailbox
    memory: Memory

    def answer(self, plan: Received[Plan], query: Received[Query]) -> bool:
        """Reply to a query about a plan whose update this site has released.

        Returns:
            False while the update is committed but not yet released: call again.

        Raises:
            RefusedError: the mode has no such phase, this site has no update in the round, the query
                belongs to another plan, or it is not one that the mode allows.
            EquivocationError: another query was replied to in this phase.
            ExchangeError: the store did not accept the reply; the next call sends the committed bytes.
        """
        asked, phase = plan.message, query.message.phase
        run, number, site = asked.run or "", asked.round, self.member.site.name
        if query.message.plan_sha256 != plan.sha256:
            raise RefusedError(f"the query of phase {phase} belongs to another plan")
        envelope = self.memory.reply(run, number, phase, query.sha256)
        if envelope is None:
            work = self.memory.work(run, number)
            if work is not None and work.state == "committed":
                return False
            if work is None or work.state != "released" or work.payload is None:
                raise RefusedError(f"phase {phase} asks a site that has no update in round {number} of {run}")
            mode = MODES[asked.confidentiality]
            if phase not in {later.name for later in mode.later}:
                raise RefusedError(f"mode {mode.name} has no phase {phase}")
            reply = Reply(
                **head_of(asked, site),
                plan_sha256=plan.sha256,
                phase=phase,
                body=mode.site.reply(asked, phase, query.message.body),
            )
            envelope = sign(reply, self.mailbox.me)
            self.memory.commit_reply(run, number, phase, query.sha256, envelope)
        self.mailbox.store.put(self.mailbox.layout.reply(site, run, number, phase), envelope)
        log.info("round %d of %s: replied in phase %s", number, run, phase)
        return True

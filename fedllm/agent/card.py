"""A site's card: that it lives, and what it can do; published from before its base model is there."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from importlib.metadata import version
from typing import Literal

from fedllm.agent.announce import MARK
from fedllm.agent.join import Membership
from fedllm.agent.memory import Memory
from fedllm.errors import FedllmError
from fedllm.exchange.mailbox import Mailbox
from fedllm.protocol.messages import COORDINATOR, Card, Progress
from fedllm.secure.envelope import sign
from fedllm.text import one_line

log = logging.getLogger(__name__)

_PATIENCE = 5.0  # s for a card that is on its way when the preparation has ended

State = Literal["preparing", "idle", "training", "stopped"]


def publish_card(  # noqa: PLR0913 - what a card says, each named by the caller
    member: Membership,
    mailbox: Mailbox,
    memory: Memory,
    state: State,
    *,
    base_sha256: str | None = None,
    examples: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Sign a card under the next number, and put it into the store.

    Args:
        member: the site.
        mailbox: its way to the store.
        memory: keeps the cards' number, which only rises.
        state: `preparing` until the base model is there, `idle` when it is ready for a plan.
        base_sha256: fingerprint of the base model that it holds.
        examples: how many records it holds; None keeps that to itself.
        progress: of the training under way.

    Raises:
        ExchangeError: the store did not take it.
    """
    counter = memory.value("card") + 1
    memory.rise("card", counter)
    card = Card(
        federation=member.layout.federation,
        sender=member.site.name,
        receiver=COORDINATOR,
        roster_version=memory.value(member.mark("roster")),
        counter=counter,
        state=state,
        base_sha256=base_sha256,
        examples=examples,
        cpus=os.cpu_count() or 1,
        fedllm=version("fedllm"),
        progress=progress,
        announced=memory.value(MARK),
    )
    mailbox.store.put(member.layout.card(member.site.name), sign(card, mailbox.me))


@contextmanager
def preparing(member: Membership) -> Iterator[None]:
    """Say that the site prepares until the block ends: fetching a base model may take minutes.

    The caller holds the home's lock. A block that fails leaves a card that says `stopped`. A store that does
    not answer costs the cards and nothing else: the agent itself says so.
    """
    ended = threading.Event()
    with closing(Memory(member.home / "memory.db")) as memory:  # here: its tables are made by one at a time
        showing = threading.Thread(target=_show_preparing, args=(member, memory, ended), daemon=True)
        showing.start()
        try:
            yield
        except BaseException:
            ended.set()
            showing.join(_PATIENCE)
            with suppress(FedllmError):
                publish_card(member, _mailbox(member), memory, "stopped")
            raise
        ended.set()
        showing.join(_PATIENCE)


def _show_preparing(member: Membership, memory: Memory, ended: threading.Event) -> None:
    while not ended.is_set():
        try:
            publish_card(member, _mailbox(member), memory, "preparing")
        except FedllmError as error:
            log.info("the coordinator is not told that this site prepares: %s", one_line(str(error)))
        ended.wait(member.site.heartbeat)


def _mailbox(member: Membership) -> Mailbox:
    return Mailbox(member.connect(), member.layout, member.identity)

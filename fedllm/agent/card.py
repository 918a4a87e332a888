"""Publish a site's card: its heartbeat and capabilities, from before its base model is ready."""

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

_PATIENCE = 5.0  # s to wait for a card upload when the preparation ends

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
    """Sign a card with the next number and upload it.

    Args:
        member: the site.
        mailbox: the site's.
        memory: holds the card number, which only rises.
        state: `preparing` until the base model is ready, `idle` when the site is ready for a plan.
        base_sha256: fingerprint of the site's base model.
        examples: number of the site's records; None keeps it private.
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
    """Publish `preparing` cards until the block ends: fetching a base model may take minutes.

    The caller holds the home's lock. If the block fails, publish a `stopped` card. A store that does not
    answer only costs the cards: the agent itself reports it later.
    """
    ended = threading.Event()
    with closing(Memory(member.home / "memory.db")) as memory:  # here: one thread creates its tables
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
            log.info("the coordinator cannot be told that this site is preparing: %s", one_line(str(error)))
        ended.wait(member.site.heartbeat)


def _mailbox(member: Membership) -> Mailbox:
    return Mailbox(member.connect(), member.layout, member.identity)

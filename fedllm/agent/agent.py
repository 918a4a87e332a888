"""A site's agent: watches head.json, shows that it lives, and does its duty about every plan."""

import logging
import os
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from fedllm.agent.duty import Duty
from fedllm.agent.join import Membership
from fedllm.agent.memory import Memory
from fedllm.agent.worker import Trainer
from fedllm.config.home import private_dir
from fedllm.data.records import read_records
from fedllm.errors import ExchangeError, FedllmError, IdentityError, ObjectNotFoundError, RefusedError
from fedllm.exchange.clock import StoreClock
from fedllm.exchange.mailbox import Mailbox, Received
from fedllm.exchange.messages import COORDINATOR, Card, Head, Plan, Roster
from fedllm.models.base import fingerprint, resolve_base
from fedllm.secure.envelope import sign

log = logging.getLogger(__name__)

PROGRESS = 2.0  # s between cards while training


class Agent:
    """One site's agent. `run` returns when `stop` is set.

    Raises:
        IdentityError: another agent runs for this site already.
    """

    def __init__(self, member: Membership, trainer: Trainer, *, patience: float = 0.0) -> None:
        self.member = member
        private_dir(member.home / "work")
        self._lock = FileLock(member.home / "agent.lock")
        try:
            self._lock.acquire(timeout=patience)
        except Timeout:
            raise IdentityError(f"an agent for {member.home} runs already: stop it first") from None
        self.memory = Memory(member.home / "memory.db")
        self.mailbox = Mailbox(member.connect(), member.layout, member.identity)
        clock = StoreClock(self.mailbox.store)
        self._base_sha256 = fingerprint(resolve_base(member.site.base))
        self._examples = len(read_records(member.site.data))
        self.duty = Duty(member, self.mailbox, self.memory, trainer, self._base_sha256, clock)
        self._head: Head | None = None
        self._etag: str | None = None
        self._plan: Received[Plan] | None = None
        self._card_due = self._head_due = 0.0  # by our monotonic clock

    def close(self) -> None:
        """Say goodbye and give everything back."""
        self.duty.stop()
        try:
            self._show("stopped")
        except FedllmError as error:
            log.warning("could not say goodbye: %s", error)
        self.memory.close()
        self._lock.release()

    def run(self, stop: threading.Event) -> None:
        """Take part until `stop` is set; a store that is away is waited for."""
        away = 0
        while not stop.is_set():
            try:
                self.tick()
                away = 0
            except RefusedError as error:
                log.error("refused: %s", error)  # noqa: TRY400 - the reason is the record
            except ExchangeError as error:
                away += 1
                log.warning("the store does not answer (%d): %s", away, error)
            except Exception:
                away += 1
                log.exception("something went wrong; this site goes on")
            near = self._head is not None and self._head.state == "training"
            pause = self.member.site.poll_near if near else self.member.site.poll_idle
            stop.wait(min(pause * 2 ** min(away, 5), 10.0))

    def tick(self) -> None:
        """Look once at everything that may have changed."""
        working = self.duty.poll()
        if time.monotonic() >= self._card_due:
            self._show("training" if working else "idle")
        if not working or time.monotonic() >= self._head_due:
            self._watch_head()
            # While it trains, a site looks only for the round's end.
            self._head_due = time.monotonic() + self.member.site.poll_idle
        if self._plan is not None and not working:
            plan, self._plan = self._plan, None
            try:
                self.duty.consider(plan)
            except ExchangeError:
                self._plan = plan  # the store is away: take it up again
                raise
            self._card_due = 0.0
        self.duty.release_committed()

    def _watch_head(self) -> None:
        key = self.member.layout.head
        try:
            changed = self.mailbox.store.get_if_changed(key, self._etag, limit=Head.largest)
        except ObjectNotFoundError:
            return  # no training yet
        if changed is None:
            return
        envelope, etag = changed
        try:
            self._follow(envelope)
        except RefusedError:
            self._etag = etag  # refused once is refused for good: say so once
            raise
        self._etag = etag

    def _follow(self, envelope: bytes) -> None:
        """Take in a head that changed."""
        keys = self.member.invitation.coordinator
        head = self.mailbox.open(envelope, Head, keys).message
        # A lower counter or epoch is a replay or a coordinator that was replaced.
        self.memory.rise(f"head/{head.federation}", head.counter)
        self.memory.rise(f"epoch/{head.federation}", head.epoch)
        self._head = head
        self._plan = None  # what an earlier head asked is asked again by this one, or over
        under_way = self.duty.current.message if self.duty.current else None
        if under_way and (head.state == "idle" or (head.run, head.round) != (under_way.run, under_way.round)):
            log.warning("round %d of %s is over: training stopped", under_way.round, under_way.run)
            self.duty.stop()
        if head.state == "training" and head.run and head.plan_sha256:
            self._fetch_plan(head)

    def _fetch_plan(self, head: Head) -> None:
        layout, keys = self.member.layout, self.member.invitation.coordinator
        run = head.run or ""
        plan = self.mailbox.read(layout.plan(run, head.round), Plan, keys, run=run, number=head.round)
        if plan.sha256 != head.plan_sha256:
            raise RefusedError(f"the plan of round {head.round} is not the one that head.json names")
        if plan.message.epoch > head.epoch:
            raise RefusedError(f"the plan of round {head.round} is from an epoch above head.json's")
        roster = self.mailbox.read(layout.roster, Roster, keys).message
        self.memory.rise(f"roster/{head.federation}", roster.roster_version)
        if self.member.identity.public not in roster.sites:
            raise RefusedError("the roster does not hold this site's keys")
        self.duty.peers = frozenset(site.name for site in roster.sites)
        self._plan = plan

    def _show(self, state: Literal["idle", "training", "stopped"]) -> None:
        """Publish the card: that the site lives, what it can do, how far it is."""
        site = self.member.site
        counter = self.memory.value("card") + 1
        self.memory.rise("card", counter)
        card = Card(
            federation=self.member.layout.federation,
            sender=site.name,
            receiver=COORDINATOR,
            roster_version=self.memory.value(f"roster/{self.member.layout.federation}"),
            counter=counter,
            state=state,
            base_sha256=self._base_sha256,
            examples=self._examples,
            cpus=os.cpu_count() or 1,
            fedllm=version("fedllm"),
            progress=self.duty.progress,
        )
        self.mailbox.store.put(self.member.layout.card(site.name), sign(card, self.mailbox.me))
        self._card_due = time.monotonic() + (PROGRESS if self.duty.current else site.heartbeat)


def log_to(path: Path | None) -> None:
    """The agent's log: one line an event, to a file or to stderr."""
    logging.basicConfig(
        filename=path,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        force=True,
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)

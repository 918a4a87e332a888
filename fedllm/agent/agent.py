"""A site's agent: watch head.json, publish the site's card, and work on plans."""

import logging
import threading
import time
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from fedllm.agent.accounts import open_accounts
from fedllm.agent.announce import DataWatch
from fedllm.agent.card import publish_card
from fedllm.agent.folder import WorkFolder
from fedllm.agent.head_watcher import HeadWatcher
from fedllm.agent.held_base import held_base
from fedllm.agent.join import Membership
from fedllm.agent.memory import Memory
from fedllm.agent.outbox import Outbox
from fedllm.agent.replies import Replies
from fedllm.agent.residuals import keep_residual, sweep
from fedllm.agent.round_worker import RoundWorker
from fedllm.agent.trainers import Trainer
from fedllm.data.forget import Forgotten
from fedllm.data.site_records import site_rows
from fedllm.disk import is_full
from fedllm.errors import ExchangeError, FedllmError, IdentityError, RefusedError, VoidKeysError
from fedllm.exchange.clock import StoreClock
from fedllm.exchange.mailbox import Mailbox, Received
from fedllm.logs import about, log_as_asked
from fedllm.privacy.same_data import note_use, other_uses
from fedllm.protocol.messages import COORDINATOR, Plan, Query
from fedllm.schedule.schedules import SCHEDULES
from fedllm.text import one_line

log = logging.getLogger(__name__)

PROGRESS = 2.0  # s between cards while training
VOID = 15.0  # s for which the store rejects this site's keys before the agent ends


class Agent:
    """One site's agent. `run` returns when `stop` is set.

    Raises:
        IdentityError: another agent runs for this site; from `run`: the site's store keys are void.
    """

    def __init__(self, member: Membership, trainer: Trainer, *, lock: FileLock | None = None) -> None:
        self.member = member
        self._lock = lock or sole_agent(member.home)
        self.memory = Memory(member.home / "memory.db")
        folder = WorkFolder(member.home / "work")
        if removed := sweep(folder, self.memory):
            log.info("removed what an interrupted training left: %s", ", ".join(removed))
        self.mailbox = Mailbox(member.connect(), member.layout, member.identity)
        self._base = held_base(member.site.base)
        self._examples = self._count()
        self._data = DataWatch(member.site.data, self.memory)
        self.watch = HeadWatcher(member, self.mailbox, self.memory)
        clock = StoreClock(self.mailbox.store)
        accounts = open_accounts(member.site, member.home, member.identity)
        if member.site.policy.budgets or accounts.ledger.datasets():
            note_use(member.site, member.home)
            for warning in other_uses(member.site, member.home):
                log.warning("%s", warning)
        self.worker = RoundWorker(
            member, self.mailbox, self.memory, accounts, trainer, self._base, clock, folder
        )
        self.outbox = Outbox(self.mailbox, self.memory, accounts, folder, member.site.poll_near)
        self._replies = Replies(member, self.mailbox, self.memory)
        self._plan: Received[Plan] | None = None  # to work on
        self._newest: Received[Plan] | None = None  # the newest that a head named
        self._query: Received[Query] | None = None  # to reply to
        self._card_due = self._head_due = 0.0  # by our monotonic clock
        self._logged_refusal = ""  # the newest logged refusal
        self.void_patience = VOID  # s
        self._void: float | None = None  # when the store first rejected our keys, by our monotonic clock
        self.contact: float | None = None  # when the store last answered, s since 1970

    def close(self) -> None:
        """Publish a final card and release all resources."""
        self.worker.stop()
        try:
            if self._void is None:
                self._show("stopped")
        except FedllmError as error:
            log.warning("the site's last card could not be published: %s", error)
        self.memory.close()
        self._lock.release()

    def run(self, stop: threading.Event) -> None:
        """Take part until `stop` is set; retry while the store does not answer."""
        with about(federation=self.member.layout.federation, site=self.member.site.name):
            self._run(stop)

    def _run(self, stop: threading.Event) -> None:
        away = 0
        while not stop.is_set():
            try:
                self.tick()
                away, self.contact, self._void = 0, time.time(), None
            except RefusedError as error:
                self._log_refusal(f"refused: {one_line(str(error))}")
            except VoidKeysError as error:
                away += 1
                self._give_up_void_keys(error)
            except ExchangeError as error:
                away, self._void = away + 1, None
                log.warning("the store failed (attempt %d): %s", away, one_line(str(error)))
            except Exception as error:
                away += 1
                if is_full(error):
                    log.error("this site's disk is full: make space; it then continues by itself")  # noqa: TRY400 - the one line says all
                else:
                    log.exception("unexpected error; this site continues")
            near = self.watch.head is not None and self.watch.head.state == "training"
            pause = self.member.site.poll_near if near else self.member.site.poll_idle
            stop.wait(min(pause * 2 ** min(away, 5), 10.0))

    def _give_up_void_keys(self, error: VoidKeysError) -> None:
        """Raise `IdentityError` if the store has rejected this site's keys for `void_patience`.

        A store that is starting may reject them until it has read its users.
        """
        if self._void is None:
            self._void = time.monotonic()
            log.warning("the store does not know this site's keys: %s", one_line(str(error)))
        if time.monotonic() - self._void >= self.void_patience:
            raise IdentityError(
                f"the store does not know the keys of {self.member.site.name} any more: a newer invitation "
                "replaced them, or the site was revoked; ask the coordinator for a new invitation"
            )

    def _log_refusal(self, refusal: str) -> None:
        """Log a refusal once at level ERROR; security events hold every occurrence."""
        log.log(logging.ERROR if refusal != self._logged_refusal else logging.DEBUG, "%s", refusal)
        self._logged_refusal = refusal

    def tick(self) -> None:
        """Poll job, head and outbox once, and publish the card when it is due.

        Raises:
            RefusedError: something was refused and recorded; the rest was done.
            ExchangeError: the store did not answer; the next tick tries again.
        """
        working = self.worker.poll()
        if time.monotonic() >= self._card_due:
            self._show("training" if working else "idle")
        refusal: RefusedError | None = None
        try:
            if not working or time.monotonic() >= self._head_due:
                self._look()
                # While it trains, a site polls only for the end of the round.
                self._head_due = time.monotonic() + self.member.site.poll_idle
        except RefusedError as error:
            refusal = error  # raised below: committed updates are sent first
        self.outbox.release_committed()
        if refusal is not None:
            raise refusal

    def _look(self) -> None:
        """Read the head, and work on its plan or query."""
        head = self.watch.look()
        if head is not None:
            self._plan = self._query = None  # the new head names them again, or they have ended
            under_way = self.worker.current.message if self.worker.current else None
            if under_way and SCHEDULES[under_way.schedule].is_over(under_way, head):
                log.warning("round %d of %s is over: training stopped", under_way.round, under_way.run)
                self.worker.stop()
            if self.worker.current is None:
                keep_residual(self.worker.folder, self.memory, head.run if head.state == "training" else None)
        if (plan := self.watch.plan()) is not None:
            self._plan = self._newest = plan
        if self._plan is not None:
            newest = self._plan.message
            try:
                done = self.worker.consider(self._plan, self.watch.roster)
            except RefusedError as error:
                self.memory.security.refused(error, COORDINATOR, newest.run, newest.round)
                self._plan = None
                raise
            if done:
                self._plan = None  # else keep it: another plan is under way (a store that is away raises)
            self._card_due = 0.0
        self._reply()

    def _reply(self) -> None:
        """Reply to the query of a phase after the training."""
        self._query = self.watch.query() or self._query
        if self._query is None or self._newest is None:
            return
        newest = self._newest.message
        try:
            done = self._replies.answer(self._newest, self._query)
        except RefusedError as error:
            self.memory.security.refused(error, COORDINATOR, newest.run, newest.round)
            self._query = None
            raise
        if done:
            self._query = None

    def _show(self, state: Literal["idle", "training", "stopped"]) -> None:
        """Publish the card: heartbeat, capabilities and progress."""
        site = self.member.site
        shows_count = site.tell_count and not self.worker.accounts.history
        if shows_count and (count := self._data.look(self._count)) is not None:
            self._examples = count
        publish_card(
            self.member,
            self.mailbox,
            self.memory,
            state,
            base_sha256=self._base.sha256,
            examples=self._examples if shows_count else None,
            progress=self.worker.progress,
        )
        self._card_due = time.monotonic() + (PROGRESS if self.worker.current else site.heartbeat)

    def _count(self) -> int:
        """Return the site's number of records, without withdrawn records and invalid lines."""
        rows, _ = site_rows(self.member.site.data)
        return len(Forgotten.load(self.member.home).keep(row.record for row in rows))


def sole_agent(home: Path, patience: float = 0.0) -> FileLock:
    """Lock a site's home for one agent, and return the lock; the agent releases it.

    Args:
        home: the site's folder.
        patience: s to wait for a former agent to end.

    Raises:
        IdentityError: another agent runs in this home.
    """
    lock = FileLock(home / "agent.lock")
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise IdentityError(f"an agent for {home} runs already: stop it first") from None
    return lock


def log_to(path: Path | None) -> None:
    """Set up the agent's log: one line per event, to a file or stderr; JSON with FEDLLM_LOG=json."""
    if log_as_asked(path):
        return
    logging.basicConfig(
        filename=path,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        force=True,
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)

"""Read the coordinator's messages at a site: head.json, and the plan, roster and query that it names."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from fedllm.agent.join import Membership
from fedllm.agent.memory import Memory
from fedllm.errors import EquivocationError, ObjectNotFoundError, RefusedError, ReplayError
from fedllm.exchange.mailbox import Mailbox, Received
from fedllm.protocol.messages import COORDINATOR, Head, Plan, Query, Roster
from fedllm.secure.identity import fingerprint

AGAIN = 2.0  # s until a refused plan is read again: the store may have returned wrong bytes
STORE = "store"  # the party in security events about the store


@dataclass
class HeadWatcher:
    """Reads the messages of a site's coordinator; records every refusal as a security event, then raises."""

    member: Membership
    mailbox: Mailbox
    memory: Memory
    head: Head | None = None  # the newest one
    roster: Mapping[str, str] = field(default_factory=dict)  # fingerprints by name
    _etag: str | None = None
    _plan_head: Head | None = None  # its plan is not fetched yet
    _query_head: Head | None = None  # its phase's query is not fetched yet
    _plan_due: float = 0.0  # when to read a refused plan again, by our monotonic clock

    def look(self) -> Head | None:
        """Return the head if there is a new one, else None.

        Raises:
            RefusedError: the head is invalid; the same bytes are not read again.
            ExchangeError: the store does not answer, or lost the head.
        """
        key = self.member.layout.head
        with self._on_record():
            try:
                changed = self.mailbox.store.get_if_changed(key, self._etag, limit=Head.largest)
            except ObjectNotFoundError:
                if self.head is None:
                    return None  # no training yet
                raise
            if changed is None:
                return None
            envelope, etag = changed
            self._etag = etag  # a refused head is not read again, so it is reported once
            self.head = head = self._open_head(envelope)
        training = head.state == "training"
        self._plan_head, self._plan_due = head if training else None, 0.0
        self._query_head = head if training and head.phase is not None else None
        return head

    def _open_head(self, envelope: bytes) -> Head:
        received = self.mailbox.open(envelope, Head, self.member.invitation.coordinator)
        head = received.message
        # A lower counter or epoch is a replay, or comes from a replaced coordinator.
        self.memory.rise(self.member.mark("epoch"), head.epoch)
        self.memory.rise(self.member.mark("head"), head.counter, received.sha256)
        if head.state == "training" and not (head.run and head.round and head.plan_sha256):
            raise RefusedError("head.json says training but not which plan")
        return head

    def plan(self) -> Received[Plan] | None:
        """Return the plan that the head names, once; None if there is no new one.

        Raises:
            RefusedError: plan or roster are invalid; they are read again after a while.
            ExchangeError: the store does not answer, or lost one; the next call reads again.
        """
        head = self._plan_head
        if head is None or time.monotonic() < self._plan_due:
            return None
        try:
            with self._on_record(head.run, head.round):
                plan = self._fetch_plan(head)
        except RefusedError:
            self._plan_due = time.monotonic() + AGAIN
            raise
        self._plan_head = None
        return plan

    def query(self) -> Received[Query] | None:
        """Return the query of the phase that the head names, once; None if there is no new one.

        Raises:
            RefusedError: the query is invalid; it is not read again.
            ExchangeError: the store does not answer, or lost the query; the next call reads again.
        """
        head = self._query_head
        if head is None or head.phase is None:
            return None
        try:
            with self._on_record(head.run, head.round):
                received = self._fetch_query(head, head.phase)
        except RefusedError:
            self._query_head = None
            raise
        self._query_head = None
        return received

    def _fetch_query(self, head: Head, phase: str) -> Received[Query]:
        run, keys = head.run or "", self.member.invitation.coordinator
        key = self.member.layout.query(self.member.site.name, run, head.round, phase)
        received = self.mailbox.read(key, Query, keys, run=run, number=head.round)
        if (received.message.phase, received.message.plan_sha256) != (phase, head.plan_sha256):
            raise RefusedError(f"the query of phase {phase} is of another phase or plan")
        return received

    def _fetch_plan(self, head: Head) -> Received[Plan]:
        run, layout, keys = head.run or "", self.member.layout, self.member.invitation.coordinator
        plan = self.mailbox.read(layout.plan(run, head.round), Plan, keys, run=run, number=head.round)
        if plan.sha256 != head.plan_sha256:
            raise RefusedError(f"the plan of round {head.round} is not the one that head.json names")
        if plan.message.epoch > head.epoch:
            raise RefusedError(f"the plan of round {head.round} is from an epoch above head.json's")
        recorded = self.memory.work(run, head.round)
        if recorded is not None and recorded.plan_sha256 != plan.sha256:
            raise EquivocationError(f"a second plan for round {head.round} of {run}: the first one holds")
        self.memory.rise(f"plan/{run}", plan.message.epoch)
        self.roster = self._members(max(head.roster_version, plan.message.roster_version))
        return plan

    def _members(self, least: int) -> dict[str, str]:
        """Return fingerprints by name, from a roster of at least version `least` that holds this site."""
        keys = self.member.invitation.coordinator
        received = self.mailbox.read(self.member.layout.roster, Roster, keys)
        roster = received.message
        self.memory.rise(self.member.mark("roster"), roster.roster_version, received.sha256)
        if roster.roster_version < least:
            raise ReplayError(f"the roster is version {roster.roster_version}, version {least} is in force")
        if roster.coordinator != keys:
            raise RefusedError("the roster names another coordinator than the invitation")
        if self.member.identity.public not in roster.sites:
            raise RefusedError("the roster does not hold this site's keys")
        members = {site.name: fingerprint(site) for site in roster.sites}
        if len(members) < len(roster.sites) or len({site.verify for site in roster.sites}) < len(members):
            raise RefusedError("the roster holds a name or a key twice")
        return members

    @contextmanager
    def _on_record(self, run: str | None = None, number: int = 0) -> Iterator[None]:
        try:
            yield
        except RefusedError as error:
            self.memory.security.refused(error, COORDINATOR, run, number)
            raise
        except ObjectNotFoundError as error:
            # The coordinator publishes what a head names before the head, so the store lost it.
            self.memory.security.record("refused", STORE, str(error), run, number)
            raise

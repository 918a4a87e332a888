"""Open the chains of a ledger's file; each is verified before it is read or extended."""

import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from fedllm.errors import LedgerError
from fedllm.privacy import ledger_file
from fedllm.privacy.chain import ChainHead, ChainState, Context, LedgerEntry, Reservation
from fedllm.privacy.ledger_file import LedgerFile
from fedllm.protocol.entry import NOTHING, signed
from fedllm.protocol.terms import Unit
from fedllm.secure.identity import Identity


@dataclass(frozen=True)
class OpenChain:
    """One data set's verified chain, inside a transaction."""

    dataset: str
    state: ChainState
    connection: Connection
    me: Identity
    retired: tuple[Identity, ...]

    def entries(self, after: int) -> list[LedgerEntry]:
        """Return the entries with a larger seq, in order."""
        return ledger_file.read_entries(self.connection, self.dataset, after)

    def holds(self, head: ChainHead) -> bool:
        """Return whether a head is an entry of this chain."""
        entry = ledger_file.read_entry(self.connection, self.dataset, head.seq)
        return entry is not None and entry.sha256 == head.sha256

    def append(self, **fields: Any) -> LedgerEntry:  # noqa: ANN401 - an entry's own fields
        """Sign an entry, write it and return it.

        Raises:
            LedgerError: The entry breaks a rule, or the chain knows neither this site's key nor a former one.
        """
        self._admit_own_key()
        return self._append(self.me, fields)

    def begin(self, unit: Unit) -> None:
        """Write the chain's opening entry if the chain is empty."""
        if self.state.head is None:
            self._append(self.me, {"kind": "open", "unit": unit})

    def settle(self, reservation: Reservation) -> None:
        """End a training and free its uncharged steps."""
        context = context_of(reservation)
        self.append(
            kind="settle",
            steps=reservation.most - reservation.charged,
            reservation=reservation.entry.seq,
            context=new_context(context.federation, context.run, 0, context.plan_sha256),
        )

    def _admit_own_key(self) -> None:
        """Have a former key admit this site's key, unless the chain knows it."""
        mine = self.me.public.verify
        if mine in self.state.keys:
            return
        former = next((one for one in self.retired if one.public.verify in self.state.keys), None)
        if former is None:
            raise LedgerError(
                f"ledger of {self.dataset}: it does not know this site's key. Put the former key back beside "
                "the new one (keys-until-…); for another home of the owner run `fedllm ledger admit`"
            )
        self._append(former, {"kind": "rekey", "key": mine, "retires": former.public.verify})

    def _append(self, by: Identity, fields: dict[str, Any]) -> LedgerEntry:
        head = self.state.head
        link = {"seq": head.seq + 1, "previous": head.sha256} if head else {"seq": 0, "previous": NOTHING}
        entry = signed(by.signing, dataset=self.dataset, **link, **fields)
        self.state.add(entry)  # applies the rules that every reader checks
        ledger_file.append(self.connection, entry)
        return entry


def context_of(reservation: Reservation) -> Context:
    """Return the training that a reservation in the site's own file is for."""
    context = reservation.entry.context
    assert context is not None  # noqa: S101 - the site's own file holds every context
    return context


def new_context(federation: str, run: str, number: int, plan_sha256: str) -> Context:
    """Return the context of a new entry, with a nonce that hides it in its hash."""
    return Context(
        federation=federation, run=run, round=number, plan_sha256=plan_sha256, nonce=secrets.token_hex(16)
    )


class Chains:
    """All chains of one file. See `Ledger` for the arguments and errors."""

    def __init__(self, path: Path, identity: Identity, retired: Iterable[Identity]) -> None:
        self._file = LedgerFile(path)
        self._me = identity
        self._retired = tuple(retired)
        self._checked: dict[str, ChainState] = {}
        self._seen: dict[str, ChainHead] = {}  # kept when a chain must be read again
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def datasets(self) -> list[str]:
        """Return the data sets that have entries or acknowledged heads."""
        with self._file.transaction(writes=False) as connection:
            return ledger_file.datasets(connection)

    def check_again(self, dataset: str | None) -> None:
        """Check the file's pages, and have a data set's chain, or all, verified again on the next use."""
        with self._lock:
            self._file.check()
            for name in list(self._checked) if dataset is None else [dataset]:
                self._checked.pop(name, None)

    @contextmanager
    def open(self, dataset: str, *, writes: bool) -> Iterator[OpenChain]:
        """Open a data set's chain as it is on disk; appended entries are durable once the block is left."""
        with self._lock:
            with self._file.transaction(writes=writes) as connection:
                state = self._checked.pop(dataset, None) or ChainState()  # kept once it matches the disk
                chain = OpenChain(dataset, state, connection, self._me, self._retired)
                self._catch_up(chain)
                before = state.head
                try:
                    yield chain
                except BaseException:
                    if state.head == before:
                        self._keep(dataset, state)
                    raise
            self._keep(dataset, state)

    def _keep(self, dataset: str, state: ChainState) -> None:
        if state.head is not None:
            self._checked[dataset], self._seen[dataset] = state, state.head

    def _catch_up(self, chain: OpenChain) -> None:
        """Verify the last known entry, add other processes' entries, and check acknowledged heads."""
        state = chain.state
        if state.head is not None and not chain.holds(state.head):
            raise LedgerError(
                f"ledger of {chain.dataset}: entry {state.head.seq} was edited or removed meanwhile"
            )
        for entry in chain.entries(state.head.seq if state.head else -1):
            state.add(entry)
        marks = ledger_file.marks(chain.connection, chain.dataset)
        if chain.dataset in self._seen:
            marks["this program"] = self._seen[chain.dataset]
        for who, head in marks.items():
            if head != state.head and not chain.holds(head):
                raise LedgerError(
                    f"ledger of {chain.dataset}: entry {head.seq}, which {who} has seen, is gone or changed: "
                    "the ledger was cut off, rolled back or forked"
                )

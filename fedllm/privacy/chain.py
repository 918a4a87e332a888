"""Verify a hash chain of privacy events.

The site verifies its own ledger with these rules; the coordinator verifies what a site shows. A chain proves
that entries shown once still stand, unchanged and in order. It cannot prove that a site records every event,
or that no older copy of its ledger is in use elsewhere.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from fedllm.errors import LedgerError
from fedllm.privacy.accounting import Event
from fedllm.protocol.entry import NOTHING, ChainHead, Context, LedgerEntry

__all__ = [
    "ChainHead",
    "ChainState",
    "Context",
    "LedgerEntry",
    "Reservation",
    "verify_chain",
]


@dataclass
class Reservation:
    """A training's reserved steps, and how many of them were charged."""

    entry: LedgerEntry
    charged: int = 0
    settled: bool = False

    @property
    def most(self) -> int:
        """Return the reserved steps."""
        return self.entry.steps or 0

    def event(self, steps: int) -> Event:
        """Return `steps` steps of this training as an event."""
        return Event(self.entry.sampling_rate or 0.0, self.entry.noise_multiplier or 0.0, steps)

    @property
    def committed(self) -> Event:
        """Return what counts against the budget: all reserved steps while open, then the charged ones."""
        return self.event(self.charged if self.settled else self.most)

    @property
    def plan_sha256(self) -> str | None:
        """Return the hash of its privacy plan; None if the context is not shown."""
        return self.entry.context.plan_sha256 if self.entry.context else None

    def in_federation(self, federation: str) -> bool:
        """Return whether it is known to belong to this federation."""
        return self.entry.context is not None and self.entry.context.federation == federation

    def about(self, federation: str, run: str) -> bool:
        """Return whether it belongs to this training."""
        context = self.entry.context
        return context is not None and (context.federation, context.run) == (federation, run)


@dataclass
class ChainState:
    """The state that a chain's entries add up to. `add` verifies each entry before it counts."""

    head: ChainHead | None = None
    dataset: str = ""
    unit: str = ""
    keys: set[str] = field(default_factory=set)  # keys that may sign the next entry
    reservations: dict[int, Reservation] = field(default_factory=dict)  # by seq, in order
    founding: list[int] | None = None  # seqs of `founders`, once something was charged
    charges: dict[tuple[str, str, int], list[LedgerEntry]] = field(
        default_factory=dict
    )  # (federation, run, round)

    def add(self, entry: LedgerEntry, *, verified: bool = False) -> None:
        """Verify the next entry and add it.

        Args:
            entry: as it was written, or without its context.
            verified: whether its signature was checked before.

        Raises:
            LedgerError: The signing key is not allowed, the entry does not follow the last one, or it breaks
                a spending rule.
        """
        place = f"ledger of {self.dataset or entry.dataset}: entry {entry.seq}"
        due = self.head.seq + 1 if self.head else 0
        if entry.seq != due:
            raise LedgerError(f"{place} stands where entry {due} is due: entries were removed or swapped")
        if entry.previous != (self.head.sha256 if self.head else NOTHING):
            raise LedgerError(f"{place} does not follow the entry before it: the chain was edited or forked")
        if (entry.kind == "open") != (self.head is None) or (self.head and entry.dataset != self.dataset):
            raise LedgerError(f"{place}: a chain opens once, and is of one data set")
        if not verified:
            entry.check_signature()
        if self.head and entry.by not in self.keys:
            raise LedgerError(f"{place} is signed by {entry.by[:16]}…, a key that the chain does not know")
        if fault := self._fault(entry):
            raise LedgerError(f"{place}: {fault}")
        self._take(entry)

    @property
    def founders(self) -> list[Reservation]:
        """Return the trainings reserved before the first charge: no released output influenced them.

        Trainings settled before the first charge released nothing and are left out.
        """
        if self.founding is not None:
            return [self.reservations[seq] for seq in self.founding]
        return [reservation for reservation in self.reservations.values() if not reservation.settled]

    def open_for(self, federation: str, run: str) -> Reservation | None:
        """Return a training's open reservation; None if it has none."""
        open_ones = (r for r in self.reservations.values() if not r.settled and r.about(federation, run))
        return next(open_ones, None)

    def charged(self, federation: str, run: str, number: int, first: int, steps: int) -> LedgerEntry | None:
        """Return the charge that overlaps these steps, if any."""
        for entry in self.charges.get((federation, run, number), ()):
            if (entry.first or 0) < first + steps and first < (entry.first or 0) + (entry.steps or 0):
                return entry
        return None

    def _fault(self, entry: LedgerEntry) -> str:
        """Return the spending rule that an entry breaks; empty if none."""
        context = entry.context
        if entry.kind == "reserve" and context and self.open_for(context.federation, context.run):
            return f"run {context.run} has an open reservation already"
        if entry.kind == "rekey" and entry.retires not in {None, entry.by}:
            return "it retires a key that it is not signed by"
        return self._spending_fault(entry) if entry.kind in {"charge", "settle"} else ""

    def _spending_fault(self, entry: LedgerEntry) -> str:
        source = self.reservations.get(-1 if entry.reservation is None else entry.reservation)
        if source is None or source.settled:
            return f"reservation {entry.reservation} is not open"
        context = entry.context
        # A charge that names its training needs that training's reservation: otherwise its noise is unknown.
        if context and not source.about(context.federation, context.run):
            return f"reservation {entry.reservation} is another training's"
        left = source.most - source.charged
        if entry.kind == "settle":
            return "" if entry.steps == left else f"it returns {entry.steps} steps where {left} are left"
        return self._charge_fault(entry, source, left)

    def _charge_fault(self, entry: LedgerEntry, source: Reservation, left: int) -> str:
        context, steps = entry.context, entry.steps or 0
        if source.event(0) != Event(entry.sampling_rate or 0.0, entry.noise_multiplier or 0.0, 0):
            return "its sampling rate or noise is not the reserved one"
        if steps > left:
            return f"it charges {steps} steps where {left} of the reserved are left"
        if context and self.charged(context.federation, context.run, context.round, entry.first or 0, steps):
            return f"steps of round {context.round} of {context.run} are charged twice"
        return ""

    def _take(self, entry: LedgerEntry) -> None:
        if entry.kind == "open":
            self.dataset, self.unit, self.keys = entry.dataset, entry.unit or "", {entry.by}
        elif entry.kind == "rekey":
            self.keys = (self.keys - {entry.retires}) | {entry.key or ""}
        elif entry.kind == "reserve":
            self.reservations[entry.seq] = Reservation(entry)
        elif entry.kind == "settle":
            self.reservations[entry.reservation or 0].settled = True
        else:
            if self.founding is None:
                self.founding = [founder.entry.seq for founder in self.founders]
            self.reservations[entry.reservation or 0].charged += entry.steps or 0
            if context := entry.context:
                self.charges.setdefault((context.federation, context.run, context.round), []).append(entry)
        self.head = entry.head


def verify_chain(
    entries: Iterable[LedgerEntry], verify_key: str | Collection[str], earlier: Sequence[LedgerEntry] = ()
) -> ChainHead:
    """Verify the entries that a site shows, and return the chain's newest head.

    Args:
        entries: in order, continuing `earlier`; entries of `earlier` may be repeated, unchanged.
        verify_key: the site's Ed25519 key or keys, hex. One of them must sign the newest entry: that vouches
            for all earlier entries, whichever keys of the same owner signed them.
        earlier: all entries verified before, from the first one; contexts may be missing in both.

    Raises:
        LedgerError: The first fault: an edited, forged, missing or misplaced entry, a fork from what was
            shown before, a broken spending rule, or an empty chain.
    """
    state = ChainState()
    for entry in earlier:
        state.add(entry, verified=True)
    newest: LedgerEntry | None = None
    for entry in entries:
        if entry.seq < len(earlier):
            if entry.sha256 != earlier[entry.seq].sha256:
                place = f"ledger of {entry.dataset}: entry {entry.seq}"
                raise LedgerError(
                    f"{place} is not the one that was shown before: the ledger was forked or rolled back"
                )
            continue
        state.add(entry)
        newest = entry
    keys = {verify_key} if isinstance(verify_key, str) else set(verify_key)
    if newest is not None and newest.by not in keys:
        raise LedgerError(f"ledger of {newest.dataset}: entry {newest.seq} is not signed by the site's key")
    if state.head is None:
        raise LedgerError("the ledger is empty: no privacy event was shown")
    return state.head


def state_of(entries: Iterable[LedgerEntry]) -> ChainState:
    """Return the state of a chain of verified entries, from the first one on."""
    state = ChainState()
    for entry in entries:
        state.add(entry, verified=True)
    return state

"""A site's ledger of privacy events: durable, append-only, hash-chained, signed; one chain per data set.

A training's full cost is reserved before its first step, and steps are charged before their noise is drawn.
Charges are never undone. The chains are the only record of reservations and charges. A separate table holds
the one update that each charge paid for, so that it pays for no other.

Every write first verifies the entry that it follows; a whole chain is verified when it is first used. A site
alone cannot notice that its whole file was replaced by an older copy. The coordinator can: it names the
newest head that it knows (`acknowledge`).
"""

from collections.abc import Iterable
from pathlib import Path

from fedllm.errors import BudgetError, EquivocationError, LedgerError
from fedllm.privacy import ledger_file
from fedllm.privacy.accounting import Event
from fedllm.privacy.budget import Limits, refuse_overspend
from fedllm.privacy.chain import ChainHead, ChainState, LedgerEntry
from fedllm.privacy.ledger_chains import Chains, context_of, new_context
from fedllm.protocol.terms import Unit
from fedllm.secure.identity import Identity

__all__ = ["Ledger", "Limits"]


class Ledger:
    """The ledger in one file, written by one site. Several sites of one owner may share a file.

    Args:
        path: of the SQLite file; created if missing.
        identity: signs the entries.
        retired: this site's former keys, in any order. If a chain knows one of them but not `identity`, the
            former key signs a `rekey` entry first. Without the former key the chain cannot continue: restore
            the key from a backup. A key that no known key vouches for could belong to anybody with the file.

    Raises:
        LedgerError: The file is damaged.
        DiskFullError: The disk has no room for it.
    """

    def __init__(self, path: Path, identity: Identity, retired: Iterable[Identity] = ()) -> None:
        self.path = path
        self._me = identity.public.verify
        former = tuple(retired)
        self._mine = {self._me, *(one.public.verify for one in former)}
        self._chains = Chains(path, identity, former)

    def close(self) -> None:
        """Close the file."""
        self._chains.close()

    def datasets(self) -> list[str]:
        """Return the data sets that have entries or acknowledged heads."""
        return self._chains.datasets()

    def head(self, dataset: str) -> ChainHead | None:
        """Return the newest entry's head; None for an empty chain."""
        with self._chains.open(dataset, writes=False) as chain:
            return chain.state.head

    def entries(self, dataset: str, after: int = -1, *, show: str | None) -> list[LedgerEntry]:
        """Return a data set's entries in order.

        Args:
            dataset: whose chain.
            after: return entries with a larger seq.
            show: the federation that may see the entries. Other federations' contexts are left out, and the
                list ends with an entry that this site signed, which vouches for all before it. None returns
                everything, for the owner.
        """
        with self._chains.open(dataset, writes=False) as chain:
            entries = chain.entries(after)
        if show is None:
            return entries
        while entries and entries[-1].by != self._me:
            entries.pop()
        return [
            entry if entry.context and entry.context.federation == show else entry.redacted()
            for entry in entries
        ]

    def state(self, dataset: str) -> ChainState:
        """Return the chain's state: unit, keys, trainings. It is the ledger's own: do not change it."""
        with self._chains.open(dataset, writes=False) as chain:
            return chain.state

    def reserve(  # noqa: PLR0913 - what a training is and costs, each named by the caller
        self,
        dataset: str,
        unit: Unit,
        *,
        federation: str,
        run: str,
        plan_sha256: str,
        event: Event,
        delta: float,
        limit: Limits,
    ) -> LedgerEntry:
        """Reserve a training's full cost before its first step. Repeating a call returns the same entry.

        Open reservations of the federation's earlier runs are settled, which frees their uncharged steps: a
        federation trains one run at a time.

        Args:
            dataset: whose budget.
            unit: what is protected; the first training fixes it for the data set.
            federation: of the training.
            run: the training.
            plan_sha256: of its privacy plan.
            event: q, sigma and the largest number of steps of the whole training.
            delta: of the training's plan.
            limit: of the data set, over all trainings.

        Raises:
            BudgetError: It does not fit the budget, or protects another unit than the data set's other
                trainings.
            EquivocationError: The run has an open reservation by another plan.
            LedgerError: The chain is broken, or not this site's.
        """
        with self._chains.open(dataset, writes=True) as chain:
            state = chain.state
            if (known := state.open_for(federation, run)) is not None:
                if (known.plan_sha256, known.event(known.most)) != (plan_sha256, event) or state.unit != unit:
                    raise EquivocationError(f"run {run} came with another privacy plan: the first one holds")
                return known.entry
            if state.head and state.unit != unit:
                raise BudgetError(
                    f"{dataset} is accounted for by {state.unit}, this training by {unit}: one unit a budget"
                )
            chain.begin(unit)
            for earlier in list(state.reservations.values()):
                if not earlier.settled and earlier.in_federation(federation):
                    chain.settle(earlier)
            founders = [founder.event(founder.most) for founder in state.founders]
            committed = [reservation.committed for reservation in state.reservations.values()]
            refuse_overspend(dataset, founders, committed, event, limit)
            return chain.append(
                kind="reserve",
                sampling_rate=event.sampling_rate,
                noise_multiplier=event.noise_multiplier,
                steps=event.steps,
                delta=delta,
                context=new_context(federation, run, 0, plan_sha256),
            )

    def charge(  # noqa: PLR0913 - what is charged, by the names of its entry
        self,
        dataset: str,
        *,
        federation: str,
        run: str,
        round: int,  # noqa: A002 - the entry's field
        first: int,
        steps: int,
    ) -> LedgerEntry:
        """Charge steps of a round to the training's reservation, before their noise is drawn.

        The charge is on disk when this returns. Repeating a call returns the same entry, but only to the home
        that charged the steps: a charge pays for one home's noise.

        Args:
            dataset: whose budget.
            federation: of the training.
            run: the training.
            round: of the training.
            first: first step, counted from 0 within the round.
            steps: number of steps.

        Raises:
            BudgetError: The training has no open reservation, or too few steps left.
            EquivocationError: Some of these steps were charged before: in another range, by another plan, or
                by another home of the same owner.
            LedgerError: The chain is broken, or not this site's.
        """
        with self._chains.open(dataset, writes=True) as chain:
            state = chain.state
            source = state.open_for(federation, run)
            if source is None:
                raise BudgetError(f"run {run} has no open reservation of {dataset}'s privacy budget")
            if (known := state.charged(federation, run, round, first, steps)) is not None:
                if known.by not in self._mine:
                    raise EquivocationError(
                        f"round {round} of {run} was charged by another of the owner's homes"
                    )
                if (known.first, known.steps) != (first, steps):
                    raise EquivocationError(
                        f"round {round} of {run}: {steps} steps from {first} on overlap "
                        f"the {known.steps} from {known.first} on that are charged already"
                    )
                if known.context is None or known.context.plan_sha256 != context_of(source).plan_sha256:
                    # A charge pays for one noise.
                    raise EquivocationError(f"round {round} of {run} was charged by another privacy plan")
                return known
            if source.charged + steps > source.most:
                raise BudgetError(
                    f"the privacy plan's steps are spent: {source.charged} of {source.most} are charged, "
                    f"round {round} of {run} needs {steps} more"
                )
            return chain.append(
                kind="charge",
                sampling_rate=source.entry.sampling_rate,
                noise_multiplier=source.entry.noise_multiplier,
                first=first,
                steps=steps,
                reservation=source.entry.seq,
                context=new_context(federation, run, round, context_of(source).plan_sha256),
            )

    def release(self, dataset: str, charged: ledger_file.Charged, sha256: str) -> None:
        """Record the one update that a charge pays for, before it is uploaded. Repeating a call is harmless.

        Raises:
            EquivocationError: The charge paid for another update.
        """
        with self._chains.open(dataset, writes=True) as chain:
            known = ledger_file.released(chain.connection, dataset, charged)
            if known is None:
                ledger_file.release(chain.connection, dataset, charged, sha256)
            elif known != sha256:
                raise EquivocationError(
                    f"round {charged[2]} of {charged[1]}: its charge paid for another update"
                )

    def is_released(self, dataset: str, charged: ledger_file.Charged) -> bool:
        """Return whether the update that a charge pays for is recorded: it may have been uploaded."""
        with self._chains.open(dataset, writes=False) as chain:
            return ledger_file.released(chain.connection, dataset, charged) is not None

    def acknowledge(self, dataset: str, head: ChainHead, envelope: bytes, *, federation: str) -> None:
        """Record a head that a coordinator knows, with the message that it signed.

        Args:
            dataset: whose chain.
            head: as the signed message names it.
            envelope: the message.
            federation: the coordinator's.

        Raises:
            LedgerError: This ledger has no such entry: it was rolled back, lost, or forked. Do not train for
                this coordinator until the newer file is restored.
        """
        with self._chains.open(dataset, writes=True) as chain:
            state = chain.state
            if (state.head.seq if state.head else -1) < head.seq:
                raise LedgerError(
                    f"ledger of {dataset}: the coordinator of {federation} has seen entry {head.seq}, "
                    f"not here: {self.path} is an older copy or a new file; put the newest in its place"
                )
            if not chain.holds(head):
                raise LedgerError(
                    f"ledger of {dataset}: entry {head.seq} is not what the coordinator of {federation} "
                    "has seen: the ledger was forked; put the file in place that goes on from there"
                )
            marked = ledger_file.marks(chain.connection, dataset).get(federation)
            if marked is None or head.seq > marked.seq:
                ledger_file.mark(chain.connection, dataset, federation, head, envelope)

    def admit(self, dataset: str, key: str) -> LedgerEntry:
        """Allow another home of the same owner to sign in this chain, by its public Ed25519 key in hex."""
        with self._chains.open(dataset, writes=True) as chain:
            state = chain.state
            if state.head is None:
                raise LedgerError(
                    f"ledger of {dataset} is empty: the first training with DP opens it; admit the key then"
                )
            return chain.append(kind="rekey", key=key)

    def verify(self, dataset: str | None = None) -> dict[str, ChainHead]:
        """Verify a data set's chain, or all, from the first entry on, and return the newest heads.

        Raises:
            LedgerError: The first fault.
        """
        self._chains.check_again(dataset)
        heads = {name: self.head(name) for name in ([dataset] if dataset else self.datasets())}
        return {name: head for name, head in heads.items() if head is not None}

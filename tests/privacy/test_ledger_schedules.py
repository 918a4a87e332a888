"""Whatever crashes, retries and old copies come, a ledger holds what was charged, once, within its budget."""

import copy
import json
import shutil
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection, event

from fedllm.errors import BudgetError, EquivocationError, LedgerError, RefusedError
from fedllm.privacy import ledger_file
from fedllm.privacy.accounting import Event
from fedllm.privacy.budget import Limits
from fedllm.privacy.chain import ChainHead, LedgerEntry, verify_chain
from fedllm.privacy.ledger import Ledger
from tests.privacy.ledger_home import DATA, MEMORY, MINE, charge, ledger_at, quick_engine, reserve
from tests.privacy.spent import spent_events
from tests.tiers import by_tier

SCHEDULES = by_tier(60, 10_000, parts=2)
STEPS = 20
BUDGET = 40  # steps, over all trainings: epsilon has tests of its own

FEDERATIONS = st.sampled_from(("fed", "other"))
RUNS = st.sampled_from(("run-1", "run-2"))
PLANS = {"a" * 64: Event(0.01, 4.0, 12), "b" * 64: Event(0.01, 4.0, 8)}
ROUNDS = st.sampled_from(("next", "next", "next", 1, 2, 3))
CRASHES = st.sampled_from((None,) * 4 + ("in append", "before commit", "after commit"))
PROCESSES = st.integers(0, 1)


class Crash(BaseException):
    """The process is gone: like a kill -9, nobody may catch it."""


@dataclass
class Training:
    """What the model knows of a run."""

    plan: str
    open: bool = True
    left: int = 0  # of the open reservation
    charged: int = 0  # on it

    @property
    def committed(self) -> int:
        return self.charged + (self.left if self.open else 0)


@dataclass
class Model:
    """What a ledger should come to, in a few words."""

    trainings: dict[tuple[str, str], list[Training]] = field(default_factory=dict)
    paid: dict[tuple[str, str, int], dict[int, tuple[int, int, str]]] = field(default_factory=dict)

    def committed(self) -> int:
        return sum(training.committed for made in self.trainings.values() for training in made)

    def spent(self) -> int:
        return sum(len(steps) for steps in self.paid.values())

    def open_for(self, federation: str, run: str) -> Training | None:
        return next((t for t in self.trainings.get((federation, run), []) if t.open), None)

    def reserve(self, federation: str, run: str, plan: str) -> None:
        if known := self.open_for(federation, run):
            if known.plan != plan:
                raise EquivocationError
            return
        mine = [t for (name, _), made in self.trainings.items() if name == federation for t in made]
        given_back = sum(training.left for training in mine if training.open)
        if self.committed() - given_back + PLANS[plan].steps > BUDGET:
            raise BudgetError
        for training in mine:
            training.open = False
        self.trainings.setdefault((federation, run), []).append(Training(plan, left=PLANS[plan].steps))

    def charge(self, federation: str, run: str, number: int, first: int, steps: int) -> None:
        training = self.open_for(federation, run)
        if training is None:
            raise BudgetError
        paid = self.paid.get((federation, run, number), {})
        known = {paid[step] for step in range(first, first + steps) if step in paid}
        if known == {(first, steps, training.plan)}:
            return
        if known:
            raise EquivocationError
        if training.left < steps:
            raise BudgetError
        training.left, training.charged = training.left - steps, training.charged + steps
        charge = dict.fromkeys(range(first, first + steps), (first, steps, training.plan))
        self.paid.setdefault((federation, run, number), {}).update(charge)


def count_steps(
    _dataset: str, _founders: Sequence[Event], committed: Sequence[Event], asked: Event, _limits: Limits
) -> None:
    """A budget in steps, in the place of one in epsilon."""
    if sum(one.steps for one in committed) + asked.steps > BUDGET:
        raise BudgetError("too many steps")


class Schedule(RuleBasedStateMachine):
    """Two processes of one site on one ledger, its coordinator, crashes, and an operator with old copies."""

    told: Counter[str]
    crash: str | None = None  # where the call under way dies

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="fedllm-"))
        self.path = self.folder / "ledger.db"
        self.model = Model()
        self.processes: list[Ledger | None] = [None, None]
        self.acknowledged: ChainHead | None = None  # what the coordinator has seen
        self.older: tuple[Path, int] | None = None  # an older file, and its newest seq

    def process(self, number: int) -> Ledger:
        ledger = self.processes[number]
        if ledger is None:
            ledger = self.processes[number] = ledger_at(self.path)
            event.listen(ledger._chains._file._engine, "commit", self.before_commit)
        return ledger

    def before_commit(self, _connection: Connection) -> None:
        if Schedule.crash == "before commit":
            raise Crash

    def attempt(
        self,
        number: int,
        crash: str | None,
        call: Callable[[Ledger], LedgerEntry],
        expect: Callable[[], None],
    ) -> None:
        """Call the ledger, die where `crash` says, and hold what it says or raises against the model."""
        ledger = self.process(number)
        before, kept = self.newest(), copy.deepcopy(self.model)
        due: type[Exception] | None = None
        try:
            expect()
        except (BudgetError, EquivocationError) as error:
            due = type(error)
        raised: RefusedError | None = None
        Schedule.crash = crash
        try:
            call(ledger)
        except (BudgetError, EquivocationError) as error:
            raised = error
        except Crash:
            assert self.newest() == before
            self.model = kept
            self.dies(number, f"crash {crash}")
            return
        finally:
            Schedule.crash = None
        assert (type(raised) if raised else None) is due
        assert raised is None or self.newest() == before  # a refusal writes nothing
        self.told[f"refused: {raised.kind}" if raised else "done"] += 1
        if crash == "after commit":  # the caller never hears of it
            self.dies(number, f"crash {crash}")

    def dies(self, number: int, where: str) -> None:
        """What the system does for a process that is gone: files and locks are let go."""
        self.told[where] += 1
        self.process(number).close()
        self.processes[number] = None

    @rule(
        number=PROCESSES, federation=FEDERATIONS, run=RUNS, plan=st.sampled_from(sorted(PLANS)), crash=CRASHES
    )
    def run_is_planned(self, number: int, federation: str, run: str, plan: str, crash: str | None) -> None:
        self.attempt(
            number,
            crash,
            lambda ledger: reserve(ledger, run, federation=federation, plan=plan, event=PLANS[plan]),
            lambda: self.model.reserve(federation, run, plan),
        )

    @initialize(federation=FEDERATIONS, plan=st.sampled_from(sorted(PLANS)))
    def first_run_is_planned(self, federation: str, plan: str) -> None:
        self.run_is_planned(0, federation, "run-1", plan, None)

    @rule(
        number=PROCESSES,
        which=st.integers(0, 3),
        asked=ROUNDS,
        first=st.sampled_from((0, 0, 0, 2)),
        steps=st.sampled_from((2, 2, 4)),
        crash=CRASHES,
        times=st.integers(1, 2),
    )
    def round_is_charged(  # noqa: PLR0913 - what hypothesis draws
        self,
        *,
        number: int,
        which: int,
        asked: int | str,
        first: int,
        steps: int,
        crash: str | None,
        times: int,
    ) -> None:
        """Mostly a run that was planned, and its next round; else whatever an old plan may ask."""
        names = [name for name, made in self.model.trainings.items() if any(t.open for t in made)]
        federation, run = [*names, *self.model.trainings, ("other", "run-2")][which % (len(names) + 1)]
        known = [n for (*name, n) in self.model.paid if tuple(name) == (federation, run)]
        round_number = max(known, default=0) + 1 if isinstance(asked, str) else asked
        for _ in range(times):  # a retry is what a crash or a lost answer leads to
            self.attempt(
                number,
                crash,
                lambda ledger: charge(
                    ledger, round_number, run=run, federation=federation, first=first, steps=steps
                ),
                lambda: self.model.charge(federation, run, round_number, first, steps),
            )
            crash = None

    @rule(number=PROCESSES)
    def process_is_started_anew(self, number: int) -> None:
        if (ledger := self.processes[number]) is not None:
            ledger.close()
        self.processes[number] = None
        self.process(number).verify()

    @rule(number=PROCESSES)
    def coordinator_sees_the_head(self, number: int) -> None:
        ledger = self.process(number)
        if (head := ledger.head(DATA)) is not None:
            ledger.acknowledge(DATA, head, b"plan", federation="fed")
            self.acknowledged = head

    @rule()
    def file_is_copied(self) -> None:
        self.all_stop()
        if self.path.exists():
            self.older = (self.folder / "copy.db", self.newest())
            shutil.copyfile(self.path, self.older[0])

    @rule(seen=st.booleans())
    def older_copy_is_restored(self, *, seen: bool) -> None:
        """The coordinator's next plan tells, where it has seen more; then the newest file is put back."""
        if self.older is None:
            return
        if seen:
            self.coordinator_sees_the_head(1)
        self.all_stop()
        self.path.rename(self.folder / "newest.db")
        shutil.copyfile(self.older[0], self.path)
        if self.acknowledged is not None:
            self.coordinator_names(self.acknowledged, newer=self.acknowledged.seq > self.older[1])
        self.all_stop()
        (self.folder / "newest.db").rename(self.path)

    def coordinator_names(self, head: ChainHead, *, newer: bool) -> None:
        ledger = self.process(0)
        if newer:
            with pytest.raises(LedgerError, match="older copy"):
                ledger.acknowledge(DATA, head, b"plan", federation="fed")
            self.told["rollback found"] += 1
        else:
            ledger.acknowledge(DATA, head, b"plan", federation="fed")

    def all_stop(self) -> None:
        """Close the file: what is left beside it was taken in."""
        for number, ledger in enumerate(self.processes):
            if ledger is not None:
                ledger.close()
            self.processes[number] = None

    def rows(self) -> list[LedgerEntry]:
        """The file, read by none of the ledger's code."""
        told = self.ask("SELECT entry FROM entry WHERE dataset = ? ORDER BY seq")
        return [LedgerEntry.model_validate_json(text) for (text,) in told]

    def newest(self) -> int:
        """The last seq, -1 for none."""
        return sum(count for (count,) in self.ask("SELECT count(*) FROM entry WHERE dataset = ?")) - 1

    def ask(self, question: str) -> list[tuple[Any, ...]]:
        if not self.path.exists():
            return []
        with closing(sqlite3.connect(self.path)) as database:
            return database.execute(question, (DATA,)).fetchall()

    @invariant()
    def nothing_is_overspent_lost_or_charged_twice(self) -> None:
        entries = self.rows()
        taken = Counter(
            (e.context.federation, e.context.run, e.context.round, (e.first or 0) + step)
            for e in entries
            if e.kind == "charge" and e.context
            for step in range(e.steps or 0)
        )
        paid = {(*name, step) for name, steps in self.model.paid.items() for step in steps}
        assert set(taken) == paid
        assert max(taken.values(), default=1) == 1
        assert self.model.spent() <= self.model.committed() <= BUDGET
        assert sum(one.steps for one in spent_events(entries)) == self.model.spent()

    def teardown(self) -> None:
        try:
            self.all_stop()
            if entries := self.rows():
                verify_chain(entries, MINE)
                ledger = self.process(0)
                assert ledger.verify()[DATA] == entries[-1].head
                if self.acknowledged is not None:
                    ledger.acknowledge(DATA, self.acknowledged, b"plan", federation="fed")
            self.told.update({"schedules": 1, "entries": len(entries)})
            self.told["settled"] += sum(entry.kind == "settle" for entry in entries)
        finally:
            self.all_stop()
            shutil.rmtree(self.folder)


@pytest.fixture
def schedule() -> Iterator[type[Schedule]]:
    Schedule.told = Counter()
    append = ledger_file.append

    def dying(connection: Connection, entry: LedgerEntry) -> None:
        append(connection, entry)
        if Schedule.crash == "in append":
            raise Crash

    with (
        mock.patch("fedllm.privacy.ledger_file.create_engine", quick_engine),
        mock.patch("fedllm.privacy.ledger.refuse_overspend", count_steps),
        mock.patch("tempfile.tempdir", MEMORY),
        mock.patch("fedllm.privacy.ledger_file.append", dying),
    ):
        yield Schedule


@SCHEDULES
@pytest.mark.timeout(3600)
def test_random_crashes_and_retries_never_overspend_lose_or_double_a_charge(
    part: int, count: int, schedule: type[Schedule]
) -> None:
    begin = time.monotonic()
    run_state_machine_as_test(
        seed(part)(schedule),
        settings=settings(
            max_examples=count,
            stateful_step_count=STEPS,
            deadline=None,
            phases=(Phase.generate,),
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    told = schedule.told
    print(json.dumps(told | {"seconds": round(time.monotonic() - begin)}))  # noqa: T201 - shown with -s
    assert told["schedules"] >= count
    missed = {
        "done",
        "refused: budget",
        "refused: equivocation",
        "crash in append",
        "crash before commit",
        "crash after commit",
        "rollback found",
        "settled",
    } - {name for name, times in told.items() if times}
    assert not missed

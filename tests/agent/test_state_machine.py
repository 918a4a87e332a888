"""Whatever crashes and failures come, a round's work moves forwards, and one update alone is ever seen."""

import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from fedllm.exchange.directory_store import DirectoryStore
from fedllm.protocol.messages import COORDINATOR, EVERYONE, Roster
from fedllm.secure.envelope import sign
from tests.agent.crashing import (
    BOUNDARIES,
    MEMORY,
    OBJECTS,
    FlakyStore,
    Fuse,
    Site,
    Wired,
    Works,
    quick_engine,
)
from tests.agent.played import RUN, SITE, Coordinator
from tests.tiers import by_tier

SCHEDULES = by_tier(60, 2000, parts=4)  # beside one for each boundary
STEPS = 4
ROUNDS = (1, 2, 3)
ORDER = {"declined": 3, "reserved": 0, "committed": 1, "released": 2}


CRASHES = st.lists(st.integers(0, 2 * len(BOUNDARIES) - 1), max_size=3)  # boundaries to pass until each
RARELY = st.sampled_from((False, False, False, True))


class Prepared:
    """What all schedules share: keys, and plans that are signed once."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator
        me = coordinator.me
        self.model = coordinator.mailbox.store.get(coordinator.sealed_model().key, limit=1 << 20)
        self.plans = {
            (number, second): sign(coordinator.plan(number, rounds=4 if second else 3), me)
            for number in ROUNDS
            for second in (False, True)
        }
        self.sha256s = {name: hashlib.sha256(plan).hexdigest() for name, plan in self.plans.items()}
        self.roster = Roster(
            federation=coordinator.config.name,
            sender=COORDINATOR,
            receiver=EVERYONE,
            roster_version=1,
            coordinator=me.public,
            sites=(coordinator.member.identity.public,),
        )


class Schedule(RuleBasedStateMachine):
    """One life of a site: plans, replays, a store that fails, and crashes."""

    prepared: Prepared
    told: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="fedllm-"))
        self.fuse = Fuse()
        self.store = FlakyStore(self.folder / "store", self.fuse)
        (self.folder / "home").mkdir(mode=0o700)
        known = self.prepared.coordinator.member
        quick = known.site.model_copy(update={"poll_near": 1e-9, "poll_idle": 1e-9})
        member = Wired(quick, self.folder / "home", known.identity, known.invitation, self.store)
        self.site = Site(member, self.fuse)
        self.coordinator = self.prepared.coordinator
        self.shown = DirectoryStore(self.folder / "store")  # the same folder, seen by the coordinator
        self.coordinator.mailbox = replace(self.coordinator.mailbox, store=self.shown)
        self.heads: list[bytes] = []
        self.states: Works = {}
        self.shown.put(
            self.coordinator.mailbox.layout.roster, sign(self.prepared.roster, self.coordinator.me)
        )
        self.shown.put(self.coordinator.sealed_model().key, self.prepared.model)

    @initialize(crashes=CRASHES)
    def coordinator_begins(self, crashes: list[int]) -> None:
        self.coordinator_asks(ROUNDS[0], crashes, 3, second=False)

    @rule(number=st.sampled_from(ROUNDS), second=RARELY, crashes=CRASHES, ticks=st.integers(1, 3))
    def coordinator_asks(self, number: int, crashes: list[int], ticks: int, *, second: bool) -> None:
        """Point at a round, perhaps with another plan than it had."""
        key = self.coordinator.mailbox.layout.plan(RUN, number)
        sha256 = self.shown.put(key, self.prepared.plans[number, second]).etag
        self.point(number, sha256)
        self.agent_ticks(crashes, ticks)

    @rule(crashes=CRASHES, ticks=st.integers(1, 3))
    def agent_ticks(self, crashes: list[int], ticks: int) -> None:
        """Go on, and be killed where `crashes` say; the next tick is a new agent's."""
        self.fuse.left = list(crashes)
        for _ in range(ticks):
            if self.site.agent is None:
                self.site.start()
                self.only_what_is_owed_is_left()
            self.site.tick()
            works = self.site.work()
            self.one_word_for_each_round(works)
            self.forwards_only(works)

    @rule(old=st.integers(0, 5))
    def head_moves_away(self, old: int) -> None:
        """The coordinator rests, or the store shows an old head."""
        if old and self.heads:
            self.shown.put(self.coordinator.mailbox.layout.head, self.heads[-min(old, len(self.heads))])
        else:
            self.point(0, None)

    @rule(kinds=st.sets(st.sampled_from(OBJECTS), min_size=1), times=st.integers(1, 3), done=st.booleans())
    def store_will_fail(self, kinds: set[str], times: int, *, done: bool) -> None:
        self.store.failing = dict.fromkeys(sorted(kinds), (times, done))

    @rule(deaths=st.integers(0, 3))
    def agent_is_killed(self, deaths: int) -> None:
        """Between two ticks; its successor's training may die as well."""
        self.site.kill()
        self.site.deaths.extend([0] * deaths)

    def point(self, number: int, sha256: str | None) -> None:
        self.coordinator.point(len(self.heads) + 1, sha256, number=number)
        self.heads.append(self.shown.get(self.coordinator.mailbox.layout.head, limit=1 << 20))

    def only_what_is_owed_is_left(self) -> None:
        """After a start, the work folder holds sealed updates that are committed, and nothing else."""
        owed = {f"{run}-{n}.sealed" for (run, n), work in self.site.work().items() if work[0] == "committed"}
        assert self.site.files() <= owed

    def one_word_for_each_round(self, works: Works) -> None:
        """At most one answer, update and payload is ever seen, and only what memory stands by."""
        layout = self.coordinator.mailbox.layout
        for number in ROUNDS:
            answers, updates, payloads = (
                self.store.shown[key(SITE, RUN, number)]
                for key in (layout.answer, layout.update, layout.payload)
            )
            assert max(len(answers), len(updates), len(payloads)) <= 1
            if answers | updates | payloads:
                state, _, answer, update = works[RUN, number]
                assert answers <= {answer}
                assert updates <= {update}
                assert state in {"committed", "released"} or not updates | payloads

    def forwards_only(self, works: Works) -> None:
        for key, (state, plan, answer, update) in self.states.items():
            now = works[key]
            assert ORDER[now[0]] >= ORDER[state]
            assert now[1:3] == (plan, answer)
            assert update is None or now[3] == update
        self.states = works

    def teardown(self) -> None:
        """Once nothing fails any more, what was begun is released."""
        try:
            self.store.failing.clear()
            self.site.deaths.clear()
            self.agent_ticks([], 1)
            for (_, number), work in self.site.work().items():
                if work[0] == "reserved":
                    self.coordinator_asks(
                        number, [], 3, second=work[1] == self.prepared.sha256s[number, True]
                    )
            layout = self.coordinator.mailbox.layout
            for (run, number), (state, _, _, update) in self.site.work().items():
                assert state == "released"
                assert self.store.shown[layout.update(SITE, run, number)] == {update}
            assert self.site.files() == set()
            self.told.update({"schedules": 1, "lives": self.site.lives, "crashes": self.fuse.blown.total()})
            self.told.update(self.fuse.blown)
        finally:
            self.site.kill()
            shutil.rmtree(self.folder)


@pytest.fixture
def prepared(coordinator: Coordinator) -> Iterator[type[Schedule]]:
    Schedule.prepared, Schedule.told = Prepared(coordinator), Counter()
    with (
        mock.patch("fedllm.agent.head_watcher.AGAIN", 0.0),
        mock.patch("fedllm.agent.memory.create_engine", quick_engine),
        mock.patch("fedllm.privacy.ledger_file.create_engine", quick_engine),
        mock.patch("tempfile.tempdir", MEMORY),
    ):
        yield Schedule


def play_one_crash(life: Schedule, passed: int) -> None:
    """A first round, and a crash once so many boundaries were passed."""
    try:
        life.coordinator_begins([passed])
    finally:
        life.teardown()


@SCHEDULES
def test_random_crashes_leave_one_update_for_each_round(
    part: int, count: int, prepared: type[Schedule]
) -> None:
    for passed in range(2 * len(BOUNDARIES)):
        play_one_crash(prepared(), passed)
    run_state_machine_as_test(
        seed(part)(prepared),
        settings=settings(
            max_examples=count,
            stateful_step_count=STEPS,
            deadline=None,
            phases=(Phase.generate,),
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(json.dumps(prepared.told))  # noqa: T201 - shown with -s
    assert prepared.told["schedules"] >= count + 2 * len(BOUNDARIES)
    missed = {f"{when} {at}" for at in BOUNDARIES for when in ("before", "after")} - set(prepared.told)
    assert not missed

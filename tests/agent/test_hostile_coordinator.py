"""Hundreds of hostile coordinators and stores against an agent: nothing is trained, all is on record."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from fedllm.agent.job import Workbench
from fedllm.secure.identity import create_identity
from tests.agent.arena import Arena, Script
from tests.agent.crashing import MEMORY, quick_engine
from tests.agent.hostility import SIGNED, Mutation, in_the_store
from tests.agent.played import RUN, SITE, Coordinator
from tests.tiers import by_tier

CASES = by_tier(40, 500)  # beside one of each kind
HONEST_EVERY = 10  # cases after which an honest round is played


@pytest.fixture
def script(coordinator: Coordinator, tmp_path: Path) -> Script:
    return Script(coordinator, create_identity(tmp_path / "movies", "movies").public)


@pytest.fixture
def mutations(script: Script, tmp_path: Path) -> list[Mutation]:
    return [*SIGNED, *in_the_store(script.older, create_identity(tmp_path / "stranger", "coordinator"))]


@pytest.fixture(autouse=True)
def quick(tmp_path: Path) -> Iterator[None]:
    assert tmp_path.is_dir()  # pytest has chosen its folder by now: only ours are in memory
    with (
        mock.patch("fedllm.agent.head_watcher.AGAIN", 0.0),
        mock.patch("fedllm.agent.memory.create_engine", quick_engine),
        mock.patch("fedllm.privacy.ledger_file.create_engine", quick_engine),
        mock.patch("tempfile.tempdir", MEMORY),
    ):
        yield


def play_honest_round(arena: Arena) -> None:
    arena.show(arena.script.objects(arena.script.words(3, counter=1000, version=20, epoch=50)))
    arena.ticks()
    assert arena.payloads() == [arena.layout.payload(SITE, RUN, 3)]


def test_the_honest_words_that_are_changed_here_are_taken(script: Script, bench: Workbench) -> None:
    with closing(Arena(script, bench)) as arena:
        arena.show(script.objects(script.words()))
        arena.ticks()
        assert (arena.reasons(2), arena.trainer.finished) == ([], 1)
        assert arena.payloads() == [arena.layout.payload(SITE, RUN, 2)]


def attack(script: Script, bench: Workbench, chosen: list[Mutation]) -> list[str]:
    """Say something hostile to a new agent: nothing is trained. Returns the reasons that it has on record."""
    with closing(Arena(script, bench)) as arena:
        arena.show(script.objects(script.words(), chosen))
        arena.ticks()
        assert (arena.trainer.finished, arena.payloads()) == (0, []), chosen
        reasons = arena.reasons(2)
        assert all(reasons)
        assert reasons, chosen
        assert all(reason.isprintable() and len(reason) <= 500 for reason in reasons)
        if next(script.played) % HONEST_EVERY == 0:
            play_honest_round(arena)
        return reasons


@pytest.mark.parametrize("message", ["head", "plan", "roster", "model"])
def test_one_hostile_word_of_each_kind_is_not_obeyed_and_leaves_its_reason(
    script: Script, mutations: list[Mutation], bench: Workbench, message: str
) -> None:
    of_each_kind = {mutation.kind: mutation for mutation in mutations if mutation.message == message}
    assert of_each_kind
    for mutation in of_each_kind.values():
        attack(script, bench, [mutation])


@CASES
def test_no_hostile_word_is_obeyed_and_each_leaves_its_reason(
    script: Script, mutations: list[Mutation], bench: Workbench, part: int, count: int
) -> None:
    told: Counter[str] = Counter()

    @seed(part)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.sampled_from(mutations), min_size=1, max_size=3, unique_by=repr))
    def attacked(chosen: list[Mutation]) -> None:
        told.update(["cases", *attack(script, bench, chosen)])

    attacked()
    print(dict(told))  # noqa: T201 - shown with -s
    assert told["cases"] >= count

"""Releases under differential privacy: what waits in the queue, and what the journal adds to it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from fedllm.config import FederationConfig
from fedllm.coordinator.release import publish_waiting, released
from fedllm.coordinator.release_privacy import with_ledgers
from fedllm.coordinator.steps import AGGREGATE, DP_AUDIT, EVALUATE, LOCAL_TRAIN, RELEASE, JournaledRunner
from fedllm.coordinator.training import Training, open_training
from fedllm.errors import LedgerError
from fedllm.journal.ledgers import known_entries
from fedllm.journal.outcomes import Audited
from fedllm.journal.release_queue import waiting_releases
from fedllm.journal.tables import LedgerRow
from fedllm.review.ledger_gate import ledger
from fedllm.review.version_facts import VersionFacts
from fedllm.tracking import RoundRelease
from fedllm.tracking.registry import version_tags
from tests.coordinator.played import PlayedSite, begin_round
from tests.coordinator.test_private_rounds import LOCAL, RECORD, Book, send

AWAY = "http://127.0.0.1:9"


@pytest.fixture
def private(config: FederationConfig, sites: dict[str, PlayedSite]) -> Iterator[Training]:
    """A private training whose MLflow is away: every release waits."""
    assert sites
    raw = config.model_dump() | {"privacy": RECORD, "local": LOCAL}
    raw["rounds"] = raw["rounds"] | {"max": 4}
    settings = FederationConfig.model_validate(raw)
    public = Path(config.evaluation.public)
    with open_training(settings, "run-1", public, tracking_uri=AWAY) as training:
        yield training


@pytest.fixture
def books(sites: dict[str, PlayedSite], tmp_path: Path) -> dict[str, Book]:
    return {name: Book(site, tmp_path) for name, site in sites.items()}


def play_up_to_release(training: Training, books: dict[str, Book], number: int) -> JournaledRunner:
    """Play a round's steps but the last."""
    round_ = begin_round(training, {name: book.site for name, book in books.items()}, number)
    for name, book in books.items():
        send(round_, name, book.account(round_.plan))
    steps = JournaledRunner(training)
    list(steps.each(LOCAL_TRAIN, number, round_.plan.sites))
    steps.run(DP_AUDIT, number)
    steps.run(AGGREGATE, number)
    steps.run(EVALUATE, number)
    return steps


def bodies(training: Training) -> dict[int, str]:
    return {number: body for _, number, body in waiting_releases(training.journal)}


@contextmanager
def journal_reads() -> Iterator[list[str]]:
    """The statements that read from the journal in this thread: the lease's keeper has its own."""
    seen: list[str] = []
    mine = threading.get_ident()

    def note(_connection: object, _cursor: object, statement: str, *_: Any) -> None:  # noqa: ANN401 - no types
        if threading.get_ident() == mine and statement.startswith("SELECT"):
            seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    yield seen
    event.remove(Engine, "before_cursor_execute", note)


def test_a_later_release_reads_the_journal_no_more_often_and_queues_no_more(
    private: Training, books: dict[str, Book]
) -> None:
    reads = []
    for number in (1, 2, 3, 4):
        steps = play_up_to_release(private, books, number)
        with journal_reads() as seen:
            steps.run(RELEASE, number)
        reads.append(len(seen))
    assert reads[1] == reads[2] == reads[3]
    sizes = [len(body) for body in bodies(private).values()]
    assert max(sizes) - min(sizes) < 200  # numbers and their digits; an entry of a ledger is 600 bytes


def test_a_release_is_completed_from_the_journal_as_it_was_when_it_was_queued(
    private: Training, books: dict[str, Book]
) -> None:
    for number in (1, 2):
        play_up_to_release(private, books, number).run(RELEASE, number)
    waiting = {number: RoundRelease.from_json(body) for number, body in bodies(private).items()}
    whole = {number: with_ledgers(private.journal, release) for number, release in waiting.items()}
    kept = {name: [e.model_dump_json() for e in known_entries(private.journal, name, name)] for name in books}
    assert whole[2].ledgers == kept
    assert whole[1].ledgers == {name: entries[:-1] for name, entries in kept.items()}
    assert {row["steps"] for row in whole[1].budget} == {3}
    assert {row["steps"] for row in whole[2].budget} == {6}
    epsilons = [
        private.journal.require("run-1", number, "dp-audit", Audited).verdicts[0].epsilon for number in (1, 2)
    ]
    assert [(row["round"], row["epsilon"]) for row in whole[1].epsilon_quality] == [(1, epsilons[0])]
    assert [row["epsilon"] for row in whole[2].epsilon_quality] == epsilons
    assert all("loss" in row for row in whole[2].epsilon_quality)
    for release in whole.values():
        ledgers = {site: tuple(lines) for site, lines in release.ledgers.items()}
        facts = VersionFacts("played", "1", "r", tags=version_tags(release), ledgers=ledgers)
        assert ledger(facts).verdict == "pass", ledger(facts).says


@pytest.mark.parametrize("fault", ["edited", "cut off", "no entry"])
def test_a_release_whose_ledger_was_edited_in_the_journal_is_refused_and_named(
    private: Training, books: dict[str, Book], fault: str
) -> None:
    steps = play_up_to_release(private, books, 1)
    steps.run(RELEASE, 1)
    with private.journal.write() as session:
        row = session.get_one(LedgerRow, ("played", "nyt", "nyt", 2))
        if fault == "cut off":
            session.delete(row)
        else:
            row.body = json.dumps(json.loads(row.body) | {"steps": 1}) if fault == "edited" else "{}"
    (body,) = bodies(private).values()
    with pytest.raises(LedgerError, match="nyt"):
        with_ledgers(private.journal, RoundRelease.from_json(body))
    publish_waiting(private)
    refused = released(private, 1).refused
    assert refused is not None
    assert "nyt" in refused
    assert list(bodies(private)) == [1]


def test_a_release_that_an_earlier_version_queued_with_its_ledgers_is_published_as_it_is(
    private: Training, books: dict[str, Book]
) -> None:
    play_up_to_release(private, books, 1).run(RELEASE, 1)
    (body,) = bodies(private).values()
    whole = json.loads(with_ledgers(private.journal, RoundRelease.from_json(body)).to_json())
    del whole["ledger_heads"]
    earlier = RoundRelease.from_json(json.dumps(whole))
    assert earlier.ledgers
    assert earlier.epsilon_quality
    assert with_ledgers(private.journal, earlier) == earlier

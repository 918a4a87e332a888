"""The journal on a real Postgres: what holds on SQLite holds there, and what only a server can do to it."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedllm.errors import ConfigError, JournalError, LeaseError
from fedllm.journal.journal import Journal
from fedllm.journal.lease import Lease
from fedllm.journal.outcomes import FailedRound
from fedllm.journal.release_queue import mark_released, published, queue_release, waiting_releases
from fedllm.journal.runs import begin_run
from fedllm.journal.tables import LeaseRow
from tests.journal.test_journal_and_lease import (  # noqa: F401 - run here on the url below
    journal,
    test_a_coordinator_that_was_replaced_can_write_nothing_and_is_told,
    test_a_killed_coordinators_lease_is_taken_over_at_once,
    test_a_lease_of_another_host_holds_until_it_runs_out,
    test_a_second_coordinator_is_refused_with_the_first_ones_process,
    test_a_step_is_computed_once_and_remembered_by_a_new_process,
    test_signed_bytes_are_kept_before_they_are_shown,
    test_the_lease_is_free_again_after_its_block_and_epochs_only_rise,
)
from tests.postgres_server import PostgresServer

# Waits until its partner is there as well, so that both come at once; then leads until that one is refused.
RACER = """
import sys, time
from pathlib import Path
from fedllm.journal.journal import Journal
from fedllm.journal.lease import Lease
from fedllm.errors import LeaseError
url, folder, name = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
(folder / name).touch()
while len(list(folder.iterdir())) < 2:
    time.sleep(0.001)
try:
    journal = Journal("fed", url)
    with Lease(journal, name):
        print("led", journal.epoch, flush=True)
        until = time.monotonic() + 60
        while not (folder / "refused").exists() and time.monotonic() < until:
            time.sleep(0.01)
except LeaseError as error:
    print("refused", str(error), flush=True)
    (folder / "refused").touch()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        yield running


@pytest.fixture
def database(server: PostgresServer) -> str:
    return server.database()


@pytest.fixture
def url(server: PostgresServer, database: str) -> str:
    return server.url(database)


@pytest.mark.servers
def test_of_two_coordinators_that_come_at_once_to_a_new_database_one_leads(url: str, tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, url, str(start), name], stdout=subprocess.PIPE, text=True
        )
        for name in ("one", "two")
    ]
    said = sorted(racer.communicate(timeout=240)[0].strip() for racer in racers)
    assert [racer.returncode for racer in racers] == [0, 0]
    assert said[0] == "led 1"
    assert said[1].startswith("refused fed: the coordinator with process ")


def test_threads_that_come_at_once_for_the_first_lease_get_one_epoch_each_or_a_refusal(url: str) -> None:
    journals = [Journal("fed", url) for _ in range(8)]
    epochs: list[int] = []
    refusals: list[str] = []
    gate = threading.Barrier(len(journals))

    def come(mine: Journal, run: str) -> None:
        gate.wait()
        try:
            with Lease(mine, run):
                epochs.append(mine.epoch or 0)
        except LeaseError as error:
            refusals.append(str(error))

    threads = [threading.Thread(target=come, args=(one, f"run-{n}")) for n, one in enumerate(journals)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for one in journals:
        one.close()
    assert epochs == list(range(1, len(epochs) + 1))  # each change of leader raised it by one
    assert len(epochs) + len(refusals) == len(journals)
    assert epochs


def test_head_counters_that_threads_draw_at_once_are_all_different(journal: Journal) -> None:  # noqa: F811 - pytest's
    journal.save_roster(json.dumps({"roster_version": 1}), after=0)
    with Lease(journal, "run"):
        drawn: list[int] = []
        threads = [
            threading.Thread(target=lambda: drawn.extend(journal.next_head() for _ in range(5)))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert sorted(drawn) == list(range(1, 31))


def test_two_first_rosters_at_once_are_one_roster_and_a_clear_refusal(url: str) -> None:
    results: list[str] = []
    gate = threading.Barrier(2)

    def add(name: str) -> None:
        mine = Journal("fed", url)
        gate.wait()
        try:
            mine.save_roster(json.dumps({"roster_version": 1, "of": name}), after=0)
            results.append(name)
        except ConfigError as error:
            results.append(str(error))
        mine.close()

    threads = [threading.Thread(target=add, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    refused = [said for said in results if said.endswith("changed meanwhile: call again")]
    kept = [said for said in results if said in {"one", "two"}]
    assert len(refused) == len(kept) == 1
    found = Journal("fed", url).roster()
    assert found is not None
    assert json.loads(found)["of"] == kept[0]


def test_a_step_whose_connection_was_cut_while_it_was_computed_is_kept_all_the_same(
    journal: Journal,  # noqa: F811 - pytest's
    server: PostgresServer,
    database: str,
) -> None:
    made = []

    def compute() -> FailedRound:
        made.append(server.cut_off(database))
        return FailedRound(reason="kept")

    with Lease(journal, "run"):
        assert journal.once("run", 1, "step", FailedRound, compute) == FailedRound(reason="kept")
    assert made[0] >= 1  # there was a connection to cut, and the step was computed once
    assert len(made) == 1
    assert journal.outcome("run", 1, "step", FailedRound) == FailedRound(reason="kept")


def write_and_be_cut_off(journal: Journal, server: PostgresServer, database: str) -> None:  # noqa: F811 - a name
    with journal.write() as session:
        session.add(LeaseRow(federation="half", epoch=7, expires=0.0))
        session.flush()
        server.cut_off(database)
        session.add(LeaseRow(federation="done", epoch=7, expires=0.0))


def test_a_transaction_that_is_cut_off_leaves_nothing_and_says_so_in_one_line(
    journal: Journal,  # noqa: F811 - pytest's
    server: PostgresServer,
    database: str,
) -> None:
    with pytest.raises(JournalError, match="go on with --resume") as caught:
        write_and_be_cut_off(journal, server, database)
    assert "\n" not in str(caught.value)
    with journal.read() as session:
        assert session.get(LeaseRow, "half") is None
        assert session.get(LeaseRow, "done") is None


def test_a_leader_goes_on_leading_over_a_restart_of_its_database(url: str, server: PostgresServer) -> None:
    leader = Journal("fed", url)
    with Lease(leader, "run"):
        server.stop()
        back = threading.Timer(1.0, server.start)
        back.start()
        kept = leader.once("run", 1, "step", FailedRound, lambda: FailedRound(reason="after the restart"))
        back.join()
        assert kept.reason == "after the restart"
        assert leader.deposed() is None
        with pytest.raises(LeaseError, match="leads run run"), Lease(Journal("fed", url), "other"):
            pass
    leader.close()


def test_a_database_that_stays_away_is_one_line_without_its_password(server: PostgresServer) -> None:
    wrong = server.url("nowhere").replace("fedllm@", "fedllm:hush-hush@")
    begun = time.monotonic()
    with pytest.raises(JournalError, match='database "nowhere" does not exist') as caught:
        Journal("fed", wrong)
    assert time.monotonic() - begun < 10  # what does not pass is not waited for
    assert "hush-hush" not in str(caught.value)
    with pytest.raises(ConfigError, match="FEDLLM_JOURNAL_URL") as refused:
        Journal("fed", "postgresql+psycopg://fedllm:hush-hush@host:port/x")
    assert "hush-hush" not in str(refused.value)


def test_releases_wait_in_the_order_of_their_rounds_and_events_are_counted(journal: Journal) -> None:  # noqa: F811 - pytest's
    begin_run(journal, "run", "{}")
    for number in (10, 2, 1):
        queue_release(journal, "run", number, f"body {number}")
    queue_release(journal, "run", 2, "a second time")
    assert [(number, body) for _, number, body in waiting_releases(journal)] == [
        (1, "body 1"),
        (2, "body 2"),
        (10, "body 10"),
    ]
    mark_released(journal, "run", 1, "{}")
    assert published(journal, "run", 1) == "{}"
    assert [number for _, number, _ in waiting_releases(journal)] == [2, 10]
    for _ in range(2):
        journal.security.record("refused", "mill", "it said \x00 and ✗", "run", 1)
    (event,) = journal.security.events("run")
    assert (event.times, event.reason) == (2, "it said ? and ✗")


def test_times_are_the_databases_own(journal: Journal, server: PostgresServer) -> None:  # noqa: F811 - pytest's
    with journal.read() as session:
        told = journal.now(session)
    ((theirs,),) = server.sql("select extract(epoch from clock_timestamp())::float8")
    assert abs(told - theirs) < 30

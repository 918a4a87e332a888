import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedllm.errors import LeaseError, RoundError
from fedllm.journal import lease as lease_module
from fedllm.journal.journal import Journal
from fedllm.journal.lease import Lease
from fedllm.journal.outcomes import FailedRound
from fedllm.journal.runs import begin_run, find_run
from fedllm.journal.tables import LeaseRow

KILLED = (
    "import sys, os, signal; from fedllm.journal.journal import Journal;"
    "from fedllm.journal.lease import Lease;"
    "Lease(Journal('fed', sys.argv[1]), sys.argv[2]).__enter__(); os.kill(os.getpid(), signal.SIGKILL)"
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'journal.db'}"


@pytest.fixture
def journal(url: str) -> Iterator[Journal]:
    opened = Journal("fed", url)
    yield opened
    opened.close()


def test_a_step_is_computed_once_and_remembered_by_a_new_process(journal: Journal, url: str) -> None:
    made = []

    def compute() -> FailedRound:
        made.append(1)
        return FailedRound(reason=f"number {len(made)}")

    first = journal.once("run", 1, "step", FailedRound, compute)
    again = Journal("fed", url).once("run", 1, "step", FailedRound, compute)
    assert first == again == FailedRound(reason="number 1")
    assert made == [1]


def test_a_step_that_was_not_done_names_the_way_to_go_on(journal: Journal) -> None:
    with pytest.raises(RoundError, match="--resume run"):
        journal.require("run", 1, "step", FailedRound)


def test_signed_bytes_are_kept_before_they_are_shown(journal: Journal) -> None:
    assert journal.commit_bytes("key", lambda: b"first") == b"first"
    assert journal.commit_bytes("key", lambda: b"second") == b"first"


def test_a_second_coordinator_is_refused_with_the_first_ones_process(journal: Journal, url: str) -> None:
    with (
        Lease(journal, "run-1"),
        pytest.raises(LeaseError, match="leads run run-1"),
        Lease(Journal("fed", url), "run-2"),
    ):
        pass


def test_the_lease_is_free_again_after_its_block_and_epochs_only_rise(url: str) -> None:
    epochs = []
    for run in ("a", "b", "c"):
        journal = Journal("fed", url)
        with Lease(journal, run):
            epochs.append(journal.epoch)
    assert epochs == [1, 2, 3]


@pytest.mark.servers
def test_a_killed_coordinators_lease_is_taken_over_at_once(url: str) -> None:
    subprocess.run([sys.executable, "-c", KILLED, url, "run"], check=False)
    successor = Journal("fed", url)
    with Lease(successor, "run"):
        assert successor.epoch == 2


@pytest.mark.servers
def test_a_run_that_a_killed_coordinator_left_is_marked_crashed_by_the_next(url: str) -> None:
    journal = Journal("fed", url)
    begin_run(journal, "left", "{}")
    subprocess.run([sys.executable, "-c", KILLED, url, "left"], check=False)
    with Lease(journal, "next"):
        row = find_run(journal, "left")
    assert row is not None
    assert row.status == "crashed"
    assert "--resume left" in row.reason


def test_a_lease_of_another_host_holds_until_it_runs_out(journal: Journal, url: str) -> None:
    with Lease(journal, "run"):
        pass
    with journal.write() as session:
        row = session.get_one(LeaseRow, "fed")
        row.holder, row.expires = "elsewhere|1|1.0", time.time() + 60
    with pytest.raises(LeaseError, match="on elsewhere"), Lease(Journal("fed", url), "run"):
        pass
    with journal.write() as session:
        session.get_one(LeaseRow, "fed").expires = time.time() - 1
    with Lease(Journal("fed", url), "run"):
        pass


def test_a_coordinator_that_was_replaced_can_write_nothing_and_is_told(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "RENEW", 0.05)
    lost: list[bool] = []
    with Lease(journal, "run", on_lost=lambda _why: lost.append(True)):
        other = Journal("fed", str(journal._engine.url))
        with other.write() as session:
            session.get_one(LeaseRow, "fed").epoch += 1
        with pytest.raises(LeaseError, match="took over"):
            journal.once("run", 1, "step", FailedRound, lambda: FailedRound(reason="zombie"))
        until = time.monotonic() + 30
        while not lost and time.monotonic() < until:
            time.sleep(0.02)
    assert lost
    assert journal.outcome("run", 1, "step", FailedRound) is None

"""A cancelled training stops for everybody, whoever cancelled it and whether or not its coordinator lives."""

import threading
import time
from pathlib import Path

import pytest

from fedllm.config import FederationConfig
from fedllm.coordinator.cancel import cancel
from fedllm.coordinator.rounds import play
from fedllm.coordinator.steps import JournaledRunner
from fedllm.coordinator.training import Training, open_training
from fedllm.errors import CancelledError, ConfigError, LeaseError
from fedllm.journal.journal import Journal
from fedllm.journal.runs import end_run, find_run
from fedllm.journal.tables import RunRow
from fedllm.protocol.messages import Head
from tests.coordinator.played import PlayedSite, begin_round


def head_of(training: Training) -> Head:
    keys = training.mailbox.me.public
    return training.mailbox.read(training.layout.head, Head, keys).message


def status(config: FederationConfig, run: str) -> str:
    journal = Journal(config.name)
    row = find_run(journal, run)
    journal.close()
    assert row is not None
    return row.status


def test_cancel_ends_the_wait_for_sites_within_seconds_and_frees_the_lease(
    training: Training, sites: dict[str, PlayedSite], config: FederationConfig
) -> None:
    begun = begin_round(training, sites)
    ended: list[tuple[float, Exception]] = []

    def wait() -> None:
        try:
            begun.wait("amazon")
        except CancelledError as error:
            ended.append((time.monotonic(), error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert head_of(training).state == "training"
    asked = time.monotonic()
    cancel(config, "run-1")
    waiting.join(60)
    when, error = ended[0]
    assert when - asked < 15
    assert "run-1 was cancelled" in str(error)
    head = head_of(training)
    assert (head.state, head.epoch) == ("idle", training.epoch + 1)
    assert status(config, "run-1") == "cancelled"
    with pytest.raises(CancelledError):
        training.point_head(1, begun.plan_sha256)
    with open_training(config, "run-2", Path(config.evaluation.public)) as after:
        assert after.epoch == training.epoch + 2


def test_a_training_cancelled_from_within_points_the_sites_nowhere(
    training: Training, sites: dict[str, PlayedSite], config: FederationConfig
) -> None:
    for site in sites.values():
        site.show_card()
    timer = threading.Timer(1.0, lambda: training.stop(CancelledError("cancelled in Prefect")))
    timer.start()
    with pytest.raises(CancelledError, match="cancelled in Prefect"):
        play(training, JournaledRunner(training))
    assert head_of(training).state == "idle"
    assert status(config, "run-1") == "cancelled"


def test_a_cancelled_run_is_resumed_by_its_own_plan(
    config: FederationConfig, sites: dict[str, PlayedSite]
) -> None:
    public = Path(config.evaluation.public)
    with open_training(config, "run-1", public) as first:
        plan = begin_round(first, sites).plan_sha256
        cancel(config, "run-1")
    with open_training(config, "run-1", public) as again:
        assert begin_round(again, sites).plan_sha256 == plan
        assert status(config, "run-1") == "running"


def test_only_a_run_that_is_under_way_can_be_cancelled(training: Training, config: FederationConfig) -> None:
    with pytest.raises(ConfigError, match="no run run-9"):
        cancel(config, "run-9")
    end_run(training.journal, "run-1", "completed", "round limit")
    with pytest.raises(ConfigError, match="is over: completed"):
        cancel(config, "run-1")


def test_cancelling_an_old_run_does_not_depose_the_one_under_way(
    training: Training, config: FederationConfig
) -> None:
    with training.journal.write() as session:
        session.add(
            RunRow(run="old", federation="played", config="{}", status="crashed", reason="", started=0.0)
        )
    with pytest.raises(LeaseError, match="leads run run-1"):
        cancel(config, "old")
    assert training.journal.deposed() is None

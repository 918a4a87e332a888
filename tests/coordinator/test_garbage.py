"""gc names what nobody needs, keeps what somebody may, and changes nothing before it is told to."""

import os
import time
from pathlib import Path

import pytest

from fedllm.config import FederationConfig
from fedllm.coordinator.evaluate import baseline
from fedllm.coordinator.garbage import find_garbage, remove_garbage
from fedllm.coordinator.rounds import close
from fedllm.coordinator.steps import AGGREGATE, DP_AUDIT, EVALUATE, LOCAL_TRAIN, RELEASE, JournaledRunner
from fedllm.coordinator.training import Training, open_training
from fedllm.exchange.directory_store import DirectoryStore
from fedllm.exchange.store import ObjectStore
from fedllm.journal.journal import Journal
from fedllm.journal.release_queue import mark_released, queue_release
from fedllm.journal.runs import end_run
from tests.coordinator.played import PlayedSite, begin_round

ROUNDS = 3


@pytest.fixture
def over(training: Training, sites: dict[str, PlayedSite]) -> Training:
    """Three rounds were played; what MLflow would get is not published."""
    steps = JournaledRunner(training)
    baseline(training)
    for number in range(1, ROUNDS + 1):
        begun = begin_round(training, sites, number)
        begun.take_part()
        list(steps.each(LOCAL_TRAIN, number, list(sites)))
        steps.run(DP_AUDIT, number)
        steps.run(AGGREGATE, number)
        steps.run(EVALUATE, number)
        steps.run(RELEASE, number)
    return training


@pytest.fixture
def journal(over: Training) -> Journal:
    return over.journal


def keys(store: ObjectStore) -> set[str]:
    return {there.key for there in store.list("")}


def test_nothing_of_a_run_under_way_is_garbage(over: Training, journal: Journal) -> None:
    assert find_garbage(journal, over.mailbox.store, older_than=0).objects == ()


def test_nothing_of_a_run_that_ended_lately_is_garbage(over: Training, journal: Journal) -> None:
    close(over, "completed", "round limit")
    assert find_garbage(journal, over.mailbox.store, older_than=3600).objects == ()


def test_looking_changes_nothing_and_removing_leaves_signed_records_and_the_newest_model(
    over: Training, journal: Journal
) -> None:
    close(over, "completed", "round limit")
    store, layout = over.mailbox.store, over.layout
    before = keys(store)
    found = find_garbage(journal, store, older_than=0)
    assert keys(store) == before
    assert all(path.exists() for path in found.files)
    assert found.size > 0
    assert remove_garbage(store, found) == []
    left = keys(store)
    assert layout.roster in left
    assert layout.head in left
    for number in range(1, ROUNDS + 1):
        for record in (layout.plan, layout.closed, layout.report):
            assert record("run-1", number) in left
        assert layout.answer("nyt", "run-1", number) not in left
        assert layout.update("nyt", "run-1", number) not in left
    assert all(layout.card(site) in left for site in ("amazon", "movies", "nyt"))
    models = [key for key in left if "/models/" in key]
    assert 1 <= len(models) <= 2  # the newest, and the best if that is another


def test_a_run_goes_on_after_its_garbage_is_gone(
    over: Training, journal: Journal, sites: dict[str, PlayedSite], config: FederationConfig
) -> None:
    close(over, "completed", "round limit")
    remove_garbage(over.mailbox.store, find_garbage(journal, over.mailbox.store, older_than=0))
    begun = begin_round(over, sites, ROUNDS + 1)
    begun.take_part()
    steps = JournaledRunner(over)
    list(steps.each(LOCAL_TRAIN, ROUNDS + 1, list(sites)))
    assert len(steps.run(DP_AUDIT, ROUNDS + 1).counted) == len(sites)
    assert steps.run(AGGREGATE, ROUNDS + 1).model.sha256
    assert config.name == "played"


def test_a_model_that_waits_for_mlflow_is_kept(over: Training, journal: Journal) -> None:
    folder = over.folder / "round-1"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"x")
    queue_release(journal, "run-1", 1, "{}")
    close(over, "completed", "round limit")
    found = find_garbage(journal, over.mailbox.store, older_than=0)
    assert not any(folder in path.parents for path in found.files)
    mark_released(journal, "run-1", 1, "{}")
    found = find_garbage(journal, over.mailbox.store, older_than=0)
    assert any(folder in path.parents for path in found.files)


def test_a_sites_strays_go_once_they_are_old_and_unknown_coordinators_runs_never_do(
    over: Training, journal: Journal, sites: dict[str, PlayedSite], tmp_path: Path
) -> None:
    store, layout = sites["nyt"].store, over.layout
    store.put(f"{layout.site_prefix('nyt')}junk/1", b"x")
    other = layout.plan("run-of-another-journal", 1)
    over.mailbox.store.put(other, b"x")
    assert find_garbage(journal, store, older_than=3600).objects == ()
    assert isinstance(store, DirectoryStore)
    old = time.time() - 7200
    for key in (f"{layout.site_prefix('nyt')}junk/1", other):
        os.utime(tmp_path / "store" / key, (old, old))
    found = find_garbage(journal, store, older_than=3600)
    assert [there.key for there in found.objects] == [f"{layout.site_prefix('nyt')}junk/1"]


def test_a_run_is_kept_whole_when_it_may_be_resumed(
    config: FederationConfig, sites: dict[str, PlayedSite]
) -> None:
    with open_training(config, "run-1", Path(config.evaluation.public)) as training:
        begin_round(training, sites)
    with open_training(config, "run-2", Path(config.evaluation.public)) as later:
        assert find_garbage(later.journal, later.mailbox.store, older_than=0).objects == ()


def test_a_run_that_stopped_inside_a_round_is_kept_whole_whatever_it_ended_as(
    config: FederationConfig, sites: dict[str, PlayedSite]
) -> None:
    public = Path(config.evaluation.public)
    with open_training(config, "run-1", public) as training:
        begun = begin_round(training, sites)
        begun.take_part()
        steps = JournaledRunner(training)
        list(steps.each(LOCAL_TRAIN, 1, list(sites)))
        steps.run(DP_AUDIT, 1)
        baseline(training)
        end_run(training.journal, "run-1", "cancelled", "by a test")
        found = find_garbage(training.journal, training.mailbox.store, older_than=0)
        assert (found.objects, found.files) == ((), ())
    with open_training(config, "run-1", public) as again:
        assert JournaledRunner(again).run(AGGREGATE, 1).model.sha256

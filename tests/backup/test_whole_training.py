"""Coordinator and sites are lost together in the middle of a round, and come back from one backup."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from playground import SITES, write_corpus

from fedllm.backup.create import create_backup
from fedllm.config import FederationConfig, fedllm_home
from fedllm.coordinator.rounds import play
from fedllm.coordinator.steps import AGGREGATE, DISPATCH, JournaledRunner
from fedllm.coordinator.training import Training, open_training
from fedllm.data.prepare import cached_data
from fedllm.journal.outcomes import Aggregated, Audited, Dispatched, FailedRound
from fedllm.simulation import Workbench, _agent_thread, join
from tests.around_steps import around
from tests.backup.lost import restore_backup

RUN = "run-1"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FederationConfig:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "home"))
    write_corpus(tmp_path / "corpus.jsonl", per_site=20)
    write_corpus(tmp_path / "public.jsonl", per_site=4)
    return FederationConfig.model_validate(
        {
            "name": "lost",
            "model": {"base": "tiny"},
            "task": {"labels": {"positive": " positive", "negative": " negative"}},
            "evaluation": {"public": str(tmp_path / "public.jsonl")},
            "rounds": {"max": 2, "deadline": "20m", "patience": None},
            "local": {"lr": 0.01, "steps": 2, "batch_size": 4},
            "store": {"url": f"file://{tmp_path / 'store'}"},
            "simulation": {"source": str(tmp_path / "corpus.jsonl"), "sites": SITES},
        }
    )


@contextmanager
def trained_by_agents(config: FederationConfig, bench: Workbench) -> Iterator[Training]:
    """The training with every site's agent, whose homes are where a simulation keeps them."""
    data, lock = cached_data(config), threading.Lock()
    with ExitStack() as stack:
        for name, records in data.sites.items():
            home = fedllm_home() / "simulated" / config.name / name
            member = join(config, name, records, home, poll_near=0.05, poll_idle=0.05)
            stack.enter_context(_agent_thread(member, bench, lock))
        yield stack.enter_context(open_training(config, RUN, data.public))


def test_coordinator_and_sites_go_on_from_a_backup_to_the_model_that_they_would_have_had(
    config: FederationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Workbench()

    def backed_up(_training: Training, number: int) -> None:
        if number == 2 and not (tmp_path / "b.tar").exists():
            create_backup(tmp_path / "b.tar")  # agents and coordinator are at work

    around(monkeypatch, AGGREGATE, backed_up)
    with trained_by_agents(config, bench) as training:
        assert play(training, JournaledRunner(training)) == "round limit"
        expected = training.journal.require(RUN, 2, "aggregate", Aggregated).model.sha256
    (tmp_path / "home").rename(tmp_path / "gone")
    (tmp_path / "store").rename(tmp_path / "gone-store")
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "new"))

    done = restore_backup(tmp_path)
    assert (done.outside, done.retired) == ({}, ())
    with trained_by_agents(config, bench) as again:
        assert again.journal.outcome(RUN, 2, "aggregate", Aggregated) is None
        assert play(again, JournaledRunner(again)) == "round limit"
        assert again.journal.require(RUN, 2, "aggregate", Aggregated).model.sha256 == expected
        # They follow the coordinator's raised numbers: a further round is played by all of them.
        third = again.config.model_copy(update={"rounds": again.config.rounds.model_copy(update={"max": 3})})
        again.config = third
        assert play(again, JournaledRunner(again)) == "round limit"
        assert again.journal.require(RUN, 3, "aggregate", Aggregated).model.sha256 != expected
        assert not [event for event in again.journal.security.events(RUN) if event.kind == "replay"]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["restored-sites", "sites-elsewhere"])
def test_a_round_that_was_led_after_the_backup_is_passed_over_and_made_up_for(
    config: FederationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, elsewhere: bool
) -> None:
    """The store outlived the coordinator: its head names round 2, and the answers to that plan are in it."""
    bench = Workbench()

    def backed_up(_training: Training, number: int) -> None:
        if number == 2:
            create_backup(tmp_path / "b.tar")

    def copied(_training: Training, number: int) -> None:
        if number == 2:
            shutil.copytree(tmp_path / "store", tmp_path / "outlived")

    with pytest.MonkeyPatch.context() as patch:
        around(patch, DISPATCH, backed_up)
        around(patch, AGGREGATE, copied)
        with trained_by_agents(config, bench) as training:
            assert play(training, JournaledRunner(training)) == "round limit"
    (tmp_path / "home").rename(tmp_path / "gone")
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "outlived").rename(tmp_path / "store")
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "new"))
    restore_backup(tmp_path, keep_objects=True)
    if elsewhere:
        shutil.rmtree(tmp_path / "new" / "simulated")
        (tmp_path / "gone" / "simulated").rename(tmp_path / "new" / "simulated")

    with trained_by_agents(config, bench) as again:
        assert again.journal.outcome(RUN, 2, "dispatch", Dispatched) is None
        assert play(again, JournaledRunner(again)) == "round limit"
        assert (
            "began before this journal was restored"
            in again.journal.require(RUN, 2, "failed", FailedRound).reason
        )
        audited = again.journal.require(RUN, 3, "dp-audit", Audited)
        assert {verdict.site for verdict in audited.verdicts if verdict.accepted} == set(SITES)
        assert again.journal.security.events(RUN) == []
        assert not [site for site in SITES if again.mailbox.has(again.layout.payload(site, RUN, 2))]

"""A coordinator on a folder as its store: with sites that have joined, or in the middle of a round."""

from pathlib import Path

import pytest

from fedllm.backup.create import create_backup
from fedllm.config import FederationConfig
from fedllm.coordinator.steps import LOCAL_TRAIN, JournaledRunner
from fedllm.coordinator.training import Training
from fedllm.exchange.directory_store import DirectoryStore
from tests.coordinator.conftest import config, sites, training
from tests.coordinator.played import SITES, PlayedSite, begin_round

__all__ = ["config", "sites", "steps", "training"]  # fixtures


@pytest.fixture
def steps(training: Training, sites: dict[str, PlayedSite]) -> JournaledRunner:
    """Round 1 with every update in the store and on record, none of them opened yet."""
    played = begin_round(training, sites)
    played.take_part()
    steps = JournaledRunner(training)
    list(steps.each(LOCAL_TRAIN, 1, SITES))
    return steps


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def archive(config: FederationConfig, sites: dict[str, PlayedSite], tmp_path: Path) -> Path:
    """A coordinator with three sites that has not trained yet."""
    assert sites
    for name in ("a", "b", "c"):
        DirectoryStore(tmp_path / "store").put(f"played/{name}", b"x")
    create_backup(tmp_path / "b.tar", configs=[config])
    return tmp_path / "b.tar"

"""A real coordinator with three sites that the test plays, on a folder as its store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedllm.config import FederationConfig
from fedllm.coordinator.members import add_site
from fedllm.coordinator.training import Training, open_training
from fedllm.data.records import write_records
from fedllm.exchange.directory_store import DirectoryStore
from fedllm.exchange.mailbox import Mailbox
from fedllm.protocol.layout import Layout
from fedllm.secure.identity import create_identity
from tests.coordinator.played import SITES, PlayedSite

TEXTS = {"positive": "a lovely day", "negative": "an awful day"}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FederationConfig:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "home"))
    public = tmp_path / "public.jsonl"
    write_records(public, [{"id": label, "text": text, "label": label} for label, text in TEXTS.items()])
    return FederationConfig.model_validate(
        {
            "name": "played",
            "model": {"base": "tiny"},
            "task": {"labels": {"positive": " positive", "negative": " negative"}},
            "evaluation": {"public": str(public)},
            "rounds": {"max": 3, "min_sites": 2, "deadline": 600},
            "local": {"lr": 0.01, "steps": 3, "batch_size": 4},
            "store": {"url": f"file://{tmp_path / 'store'}"},
        }
    )


@pytest.fixture
def sites(config: FederationConfig, tmp_path: Path) -> dict[str, PlayedSite]:
    played = {}
    for name in SITES:
        me = create_identity(tmp_path / "sites" / name, name)
        add_site(config, me.public)
        store = DirectoryStore(tmp_path / "store")
        played[name] = PlayedSite(
            me, store, Mailbox(store, Layout(config.name), me), tmp_path / "sites" / name
        )
    return played


@pytest.fixture
def training(config: FederationConfig, sites: dict[str, PlayedSite]) -> Iterator[Training]:
    assert sites
    with open_training(config, "run-1", Path(config.evaluation.public)) as opened:
        yield opened

"""A real agent on a folder as its store; the test plays the coordinator and drives the ticks by hand."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fedllm.agent.agent import Agent
from fedllm.agent.job import Workbench
from fedllm.agent.join import Membership, accept_invitation, init_site, read_card
from fedllm.config import FederationConfig
from fedllm.coordinator.members import add_site
from fedllm.data.records import write_records
from tests.agent.played import ADAPTER, POLICY, SITE, Coordinator, CountingTrainer, Global, start_of


@pytest.fixture(scope="session")
def model() -> Global:
    return start_of(ADAPTER)


@pytest.fixture(scope="session")
def bench() -> Workbench:
    return Workbench()


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FederationConfig:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "home"))
    return FederationConfig.model_validate(
        {
            "name": "fed",
            "model": {"base": "tiny"},
            "task": {"labels": {"positive": " positive", "negative": " negative"}, "template": "{text} :"},
            "store": {"url": f"file://{tmp_path / 'store'}"},
        }
    )


@pytest.fixture
def member(config: FederationConfig, tmp_path: Path) -> Membership:
    data = tmp_path / "amazon.jsonl"
    labels = ("positive", "negative")
    write_records(data, [{"text": f"{label} {n}", "label": label} for n in range(4) for label in labels])
    home = tmp_path / SITE
    quick = {"poll_near": 0.001, "poll_idle": 0.001}  # every tick looks at head.json
    card = init_site(SITE, data, home, base="tiny", threads=1, policy=POLICY, **quick)
    invitation = tmp_path / "amazon.invitation"
    invitation.write_bytes(add_site(config, read_card(card)))
    return accept_invitation(invitation, home)


@pytest.fixture
def trainer(bench: Workbench) -> CountingTrainer:
    return CountingTrainer(bench)


@pytest.fixture
def agent(member: Membership, trainer: CountingTrainer) -> Iterator[Agent]:
    with closing(Agent(member, trainer)) as agent:
        yield agent


@pytest.fixture
def coordinator(config: FederationConfig, member: Membership, model: Global, tmp_path: Path) -> Coordinator:
    return Coordinator(config, member, model, tmp_path)

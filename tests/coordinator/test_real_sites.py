"""A real federation with live agents trains these, and no run of any kind starts a simulated site in it."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import yaml

from fedllm.agent.job import Workbench
from fedllm.agent.join import accept_invitation, init_site, read_card
from fedllm.config import FederationConfig, fedllm_home, load_federation
from fedllm.coordinator.members import add_site, coordinator_identity, roster_of
from fedllm.coordinator.result import result
from fedllm.coordinator.rounds import play
from fedllm.coordinator.steps import JournaledRunner
from fedllm.data.records import write_records
from fedllm.errors import ConfigError
from fedllm.journal.journal import Journal
from fedllm.session import Request, session
from fedllm.simulation import _agent_thread
from flows.federated_round import federated_round
from flows.federated_training import federated_training

REAL = ("harbour", "mill")
QUICK = {"poll_near": 0.05, "poll_idle": 0.05}


@pytest.fixture
def file(config: FederationConfig, tmp_path: Path) -> Path:
    """The federation's file."""
    told = config.public_json()
    told["rounds"]["max"] = 1
    path = tmp_path / "federation.yaml"
    path.write_text(yaml.safe_dump({key: told[key] for key in told if key != "simulation"}))
    return path


@pytest.fixture
def copied(file: Path, tmp_path: Path) -> Path:
    """The same, with what a copy of params.yaml would have brought along."""
    path = tmp_path / "copied.yaml"
    simulation = {"simulation": {"source": "sentiment", "sites": ["amazon", "movies"]}}
    path.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | simulation))
    return path


@pytest.fixture
def live(file: Path, tmp_path: Path) -> Iterator[None]:
    """Two real sites whose agents run."""
    config = load_federation(file)
    bench, lock = Workbench(), threading.Lock()
    with ExitStack() as agents:
        for name in REAL:
            records = tmp_path / f"{name}.jsonl"
            labels = ("positive", "negative")
            write_records(
                records, [{"text": f"{word} {n}", "label": word} for n in range(4) for word in labels]
            )
            home, invitation = tmp_path / name, tmp_path / f"{name}.invitation"
            card = init_site(name, records, home, base="tiny", threads=1, **QUICK)
            invitation.write_bytes(add_site(config, read_card(card)))
            agents.enter_context(_agent_thread(accept_invitation(invitation, home), bench, lock))
        yield


def members(config: FederationConfig) -> tuple[str, ...]:
    with closing(Journal(config.name)) as journal:
        return tuple(keys.name for keys in roster_of(journal, coordinator_identity(config.name)).sites)


@pytest.mark.usefixtures("live")
def test_it_trains_its_live_sites_and_refuses_to_invent_others(file: Path, copied: Path) -> None:
    config = load_federation(file)
    with session(config, Request()) as training:
        play(training, JournaledRunner(training))
        told = result(training).public()
    assert set(told["sites"]) == set(REAL)
    run = told["run_id"]
    for flow in (federated_training, federated_round):
        with pytest.raises(ConfigError, match=r"played is real: harbour, mill joined it"):
            flow.fn(config_uri=str(copied))
    # A resumed run keeps the configuration that it began with, whatever the file has become.
    with session(load_federation(copied), Request(run_id=run, more=1)) as training:
        assert training.config.simulation is None
    assert members(config) == REAL
    assert not (fedllm_home() / "simulated").exists()

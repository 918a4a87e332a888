"""An agent whose keys of the store were replaced says what to do, and ends."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from fedllm.agent import agent as agents
from fedllm.agent.agent import Agent
from fedllm.agent.job import Workbench
from fedllm.agent.join import accept_invitation, init_site, read_card
from fedllm.cli.main import app
from fedllm.config import FederationConfig
from fedllm.coordinator.members import add_site
from fedllm.coordinator.revoke import revoke_site
from fedllm.errors import IdentityError, VoidKeysError
from fedllm.stack.minio import MinioServer
from tests.agent.played import CountingTrainer
from tests.cli.in_process import fedllm


@pytest.fixture
def config(
    tmp_path: Path, minio_server: MinioServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> FederationConfig:
    """A federation on the real server."""
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "coordinator"))
    monkeypatch.setenv("FEDLLM_ACCESS_KEY", minio_server.access_key)
    monkeypatch.setenv("FEDLLM_SECRET_KEY", minio_server.secret_key)
    return FederationConfig.model_validate(
        {
            "name": "void",
            "model": {"base": "tiny"},
            "task": {"kind": "text", "fields": {"text": "text"}},
            "store": {"url": f"s3://{bucket}", "endpoint": minio_server.endpoint},
        }
    )


@pytest.fixture
def invitation(tmp_path: Path, config: FederationConfig) -> Path:
    """A site's, beside its home."""
    (tmp_path / "data.jsonl").write_text('{"text": "one"}\n')
    quick = {"poll_near": 0.05, "poll_idle": 0.05}
    card = init_site("harbour", tmp_path / "data.jsonl", tmp_path / "harbour", base="tiny", **quick)
    path = tmp_path / "harbour.invitation"
    path.write_bytes(add_site(config, read_card(card)))
    return path


@pytest.fixture
def agent(invitation: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    monkeypatch.setattr(agents, "VOID", 1.0)
    member = accept_invitation(invitation, invitation.parent / "harbour")
    with closing(Agent(member, CountingTrainer(Workbench()))) as agent:
        yield agent


@pytest.mark.parametrize("way", ["replaced", "revoked"])
def test_an_agent_with_void_keys_asks_for_a_new_invitation_and_ends(
    agent: Agent, config: FederationConfig, way: str
) -> None:
    agent.tick()  # they hold
    if way == "replaced":
        add_site(config, agent.member.identity.public)
    else:
        revoke_site(config, "harbour")
    with pytest.raises(VoidKeysError):
        agent._show("idle")
    with pytest.raises(IdentityError, match="ask the coordinator for a new invitation") as ended:
        agent.run(threading.Event())
    assert "\n" not in str(ended.value)


def test_keys_that_hold_again_in_time_end_nothing(
    agent: Agent, config: FederationConfig, invitation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A store that starts may not have read its users yet.
    add_site(config, agent.member.identity.public)
    ticks, stop, tick = [], threading.Event(), agent.tick

    def counted() -> None:
        ticks.append(1)
        if len(ticks) == 2:
            invitation.write_bytes(add_site(config, agent.member.identity.public))
            again = accept_invitation(invitation, agent.member.home)
            monkeypatch.setattr(agent.mailbox.store, "_client", again.connect()._client)  # type: ignore[attr-defined]
        if len(ticks) == 4:
            stop.set()
        tick()

    monkeypatch.setattr(agent, "tick", counted)
    agent._card_due = 0.0
    agent.run(stop)
    assert len(ticks) == 4
    assert agent._void is None


def test_the_verb_ends_with_one_line_and_a_true_exit_code(
    config: FederationConfig, invitation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "VOID", 0.0)
    add_site(config, read_card(invitation.parent / "harbour" / "card.json"))
    home = invitation.parent / "harbour"
    done = CliRunner().invoke(app, ["agent", "--invitation", str(invitation), "--home", str(home)])
    assert isinstance(done.exception, IdentityError)
    assert done.exception.exit_code == 1


def test_a_running_agent_is_not_cut_off_unless_that_is_asked_for(
    config: FederationConfig, invitation: Path
) -> None:
    file, home = invitation.parent / "fed.yaml", invitation.parent / "harbour"
    chosen = config.model_dump(mode="json", include={"name", "model", "task", "store"})
    file.write_text(yaml.safe_dump(chosen))
    add = ("site", "add", home / "card.json", "--config", file, "--out", invitation)
    assert fedllm(*add).returncode == 0  # no agent has been heard
    with closing(Agent(accept_invitation(invitation, home), CountingTrainer(Workbench()))) as agent:
        agent.tick()
        before = invitation.read_bytes()
        done = fedllm(*add)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert done.stderr.startswith("fedllm: the agent of harbour runs, last seen")
        assert "--replace" in done.stderr
        assert invitation.read_bytes() == before
        agent._show("idle")  # its keys hold
        assert fedllm(*add, "--replace").returncode == 0
        with pytest.raises(VoidKeysError):
            agent._show("idle")
    with closing(Agent(accept_invitation(invitation, home), CountingTrainer(Workbench()))) as agent:
        agent.tick()
    assert fedllm(*add).returncode == 0  # it has said goodbye

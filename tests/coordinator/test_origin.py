"""A federation's members are real or simulated, never both: who asks to join is judged by who is there."""

from contextlib import closing
from pathlib import Path

import pytest
import yaml
from sqlalchemy import delete

from fedllm.agent.join import init_site, read_card
from fedllm.cli.stack import _config_to_deploy
from fedllm.config import FederationConfig, fedllm_home
from fedllm.coordinator.members import add_site
from fedllm.coordinator.origin import members_by_origin, refuse_simulation
from fedllm.coordinator.revoke import revoke_simulated, revoke_site
from fedllm.data.prepare import cached_data
from fedllm.errors import ConfigError
from fedllm.journal.journal import Journal
from fedllm.journal.tables import OriginRow
from fedllm.secure.identity import create_identity
from fedllm.session import Request, session
from fedllm.simulation import join


@pytest.fixture
def simulated(config: FederationConfig, tmp_path: Path) -> FederationConfig:
    """The same federation with a file that says who would hold what."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        "".join(
            f'{{"silo": "{silo}", "text": "{silo} {label} {n}", "label": "{label}"}}\n'
            for silo in ("east", "west")
            for n in range(10)
            for label in ("positive", "negative")
        )
    )
    raw = config.public_json()
    raw["simulation"] = {"source": str(corpus), "sites": ["east", "west"]}
    return FederationConfig.model_validate(raw)


def simulate_members(config: FederationConfig, home: Path) -> None:
    for name, records in cached_data(config).sites.items():
        join(config, name, records, home / "simulated" / config.name / name)


def names(config: FederationConfig) -> dict[str, list[str]]:
    with closing(Journal(config.name)) as journal:
        return {origin: [k.name for k in keys] for origin, keys in members_by_origin(journal).items()}


def test_a_real_member_keeps_every_simulated_site_out(
    config: FederationConfig, simulated: FederationConfig, tmp_path: Path
) -> None:
    add_site(config, create_identity(tmp_path / "harbour", "harbour").public)
    with pytest.raises(ConfigError, match="played is real: harbour joined") as refused:
        simulate_members(simulated, tmp_path / "home")
    assert "\n" not in str(refused.value)
    assert names(config) == {"real": ["harbour"], "simulated": []}


def test_a_training_of_a_file_with_a_simulation_is_refused_before_anything_is_started(
    config: FederationConfig, simulated: FederationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_site(config, create_identity(tmp_path / "harbour", "harbour").public)
    monkeypatch.setattr("fedllm.session.cached_data", lambda _config: pytest.fail("data were made"))
    monkeypatch.setattr("fedllm.session.agent_processes", lambda *_: pytest.fail("agents were started"))
    with pytest.raises(ConfigError, match="--agents external"), session(simulated, Request()):
        pytest.fail("it was opened")


def test_the_stack_starts_and_deploys_nothing_where_the_file_at_hand_simulates_a_real_federation(
    config: FederationConfig,
    simulated: FederationConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    text = yaml.safe_dump(simulated.public_json())
    for name in ("params.yaml", "named.yaml"):
        Path(name).write_text(text)
    assert _config_to_deploy(Path("params.yaml")) == Path("params.yaml")
    assert not (fedllm_home() / "coordinator").exists(), "a look makes no journal"
    add_site(config, create_identity(tmp_path / "harbour", "harbour").public)
    assert _config_to_deploy(Path("params.yaml")) is None
    assert capsys.readouterr().err.startswith("nothing is deployed: played is real: harbour joined it")
    with pytest.raises(ConfigError, match="played is real"):
        _config_to_deploy(Path("named.yaml"))


def test_simulated_members_keep_a_real_site_out_until_they_are_removed(
    config: FederationConfig, simulated: FederationConfig, tmp_path: Path
) -> None:
    simulate_members(simulated, tmp_path / "home")
    harbour = create_identity(tmp_path / "harbour", "harbour").public
    with pytest.raises(ConfigError, match=r"its simulation made east, west.*site revoke --simulated"):
        add_site(config, harbour)
    assert names(config) == {"real": [], "simulated": ["east", "west"]}
    assert revoke_simulated(config) == ("east", "west")
    assert add_site(config, harbour)
    assert names(config) == {"real": ["harbour"], "simulated": []}
    with pytest.raises(ConfigError, match="no simulated members"):
        revoke_simulated(config)


def test_a_simulation_runs_again_and_also_after_its_members_were_removed(
    config: FederationConfig, simulated: FederationConfig, tmp_path: Path
) -> None:
    for _ in range(2):
        simulate_members(simulated, tmp_path / "home")
    revoke_simulated(simulated)
    simulate_members(simulated, tmp_path / "home")
    refuse_simulation(simulated)
    assert names(config) == {"real": [], "simulated": ["east", "west"]}


def test_when_the_last_real_member_is_out_the_name_is_free_for_a_simulation(
    config: FederationConfig, simulated: FederationConfig, tmp_path: Path
) -> None:
    add_site(config, create_identity(tmp_path / "harbour", "harbour").public)
    revoke_site(config, "harbour")
    simulate_members(simulated, tmp_path / "home")
    assert names(config) == {"real": [], "simulated": ["east", "west"]}


def test_a_crash_before_the_roster_leaves_a_federation_that_either_may_join(
    config: FederationConfig, simulated: FederationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harbour = create_identity(tmp_path / "harbour", "harbour").public
    with monkeypatch.context() as patch:
        patch.setattr("fedllm.coordinator.members.save_roster", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            add_site(config, harbour)
    simulate_members(simulated, tmp_path / "home")
    assert names(config) == {"real": [], "simulated": ["east", "west"]}


def test_members_from_before_origins_were_noted_are_known_by_their_homes(
    config: FederationConfig, simulated: FederationConfig, tmp_path: Path
) -> None:
    simulate_members(simulated, tmp_path / "home")
    with closing(Journal(config.name)) as journal, journal.write() as rows:
        rows.execute(delete(OriginRow))
    assert names(config) == {"real": [], "simulated": ["east", "west"]}
    (tmp_path / "home" / "simulated" / config.name / "east" / "card.json").unlink()
    assert names(config) == {"real": ["east"], "simulated": ["west"]}


def test_the_same_name_with_other_keys_is_another_member(
    config: FederationConfig, simulated: FederationConfig, tmp_path: Path
) -> None:
    simulate_members(simulated, tmp_path / "home")
    revoke_simulated(config)
    card = init_site("east", tmp_path / "corpus.jsonl", tmp_path / "real-east")
    add_site(config, read_card(card))
    assert names(config) == {"real": ["east"], "simulated": []}

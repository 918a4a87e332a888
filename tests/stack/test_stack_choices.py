"""What the stack decides before any server starts."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fedllm.endpoints import endpoints
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.endpoints.state import StackState
from fedllm.errors import ConfigError, StackError
from fedllm.stack.deploy import deploy_stamp, deployment_file, register_deployments
from fedllm.stack.health import choose_port
from fedllm.stack.local import _external_prefect
from fedllm.stack.programs import base_environment


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_port_asked_for_and_taken_is_an_error_that_names_the_option(listening: int) -> None:
    with pytest.raises(StackError, match="--mlflow-port"):
        choose_port("mlflow", listening, None, 5000, set())


def test_last_times_port_is_kept_and_a_taken_one_is_replaced(listening: int) -> None:
    free = choose_port("minio", None, listening, listening, set())
    assert free != listening
    assert choose_port("minio", None, free, listening, set()) == free
    assert choose_port("minio", None, free, listening, {free}) != free


def test_no_stack_means_no_endpoints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "new"))
    assert endpoints() is None


def test_a_long_home_still_gets_a_socket_that_fits(tmp_path: Path) -> None:
    place = StackPaths(tmp_path / ("long" * 40))
    assert len(str(place.socket())) < 107
    assert place.socket() == place.socket()
    assert place.socket().parent.stat().st_mode & 0o077 == 0
    place.socket().parent.rmdir()


def test_a_home_that_supervisord_cannot_spell_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / 'a"b'))
    with pytest.raises(StackError, match="FEDLLM_HOME"):
        StackPaths.here()


def test_damaged_state_says_what_to_do(tmp_path: Path) -> None:
    place = StackPaths(tmp_path)
    place.create()
    place.state.write_text("{")
    with pytest.raises(StackError, match="fedllm down"):
        StackState.load(place)


def test_the_users_prefect_is_used_but_never_mistaken_for_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    state = StackState(ports={"prefect": 4321})
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example:4200/api/")
    assert _external_prefect(state) == "http://prefect.example:4200/api"
    monkeypatch.setenv("PREFECT_API_URL", state.own_prefect_url)
    assert _external_prefect(state) is None


def test_servers_inherit_nothing_that_would_turn_them_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("PREFECT_API_KEY", "MLFLOW_TRACKING_URI", "AWS_PROFILE", "MINIO_ROOT_USER"):
        monkeypatch.setenv(name, "elsewhere")
    own = base_environment(StackPaths(tmp_path), own_prefect=True)
    assert "elsewhere" not in own.values()
    assert base_environment(StackPaths(tmp_path), own_prefect=False)["PREFECT_API_KEY"] == "elsewhere"
    assert own["DO_NOT_TRACK"] == "1"
    assert "127.0.0.1" in own["NO_PROXY"].split(",")


def test_the_deployments_are_what_others_rely_on() -> None:
    found = yaml.safe_load(deployment_file().read_text().replace("{{ $FEDLLM_NAME }}", "sentiment"))[
        "deployments"
    ]
    names = {(entry["entrypoint"].split(".")[1], entry["name"]) for entry in found}
    assert names >= {("federated_training", "sentiment"), ("federated_round", "sentiment")}
    assert ("privacy_audit", "sentiment-weekly") in names
    for entry in found:
        assert "federation:sentiment" in entry["tags"]
        if {"training", "round"} & set(entry["tags"]):
            assert set(entry["parameters"]) == {"config_uri", "rounds", "sites", "run_id"}
            assert entry["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
        assert entry["concurrency_limit"]["limit"] == 1
        assert entry["work_pool"]["name"] == "fedllm"
    scheduled = {
        (entry["entrypoint"].split(".")[1], entry["name"]): entry["schedules"]
        for entry in found
        if entry.get("schedules")
    }
    assert {("federated_training", "sentiment-nightly"), ("review_tags", "sentiment")} <= set(scheduled)
    assert all(schedule["active"] is False for (schedule,) in scheduled.values())


def test_a_deployment_is_registered_anew_for_another_file_or_server(tmp_path: Path) -> None:
    stamps = {
        deploy_stamp(tmp_path / "a.yaml", "http://one/api"),
        deploy_stamp(tmp_path / "b.yaml", "http://one/api"),
        deploy_stamp(tmp_path / "a.yaml", "http://two/api"),
    }
    assert len(stamps) == 3
    assert deploy_stamp(tmp_path / "a.yaml", "http://one/api") in stamps


def test_a_broken_federation_file_is_refused_before_prefect_is_asked(tmp_path: Path) -> None:
    config = tmp_path / "params.yaml"
    config.write_text("name: x\nroundz: 3\n")
    with pytest.raises(ConfigError, match="roundz"):
        register_deployments(config, "http://127.0.0.1:1/api", {})

"""Whom the servers of a stack ask for a password: what is decided before any of them starts."""

import base64
import json
import os
from pathlib import Path

import pytest

from fedllm.cli.run import _servers
from fedllm.config import load_federation
from fedllm.endpoints.addresses import read_endpoints
from fedllm.endpoints.passwords import passwords
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.endpoints.state import StackState
from fedllm.errors import ConfigError, StackError
from fedllm.stack import local
from fedllm.stack.access import access_to
from fedllm.stack.programs import programs
from fedllm.stack.security import with_security
from tests.stack.conftest import PORTS, ROOT, Running


def test_a_plain_stack_has_passwords_and_no_tls(place: StackPaths) -> None:
    state = StackState(ports=PORTS)
    state.save(place)
    found = {program.name: program for program in programs(place, state)}
    drawn = passwords(place)
    env = {name: program.env for name, program in found.items()}
    assert env["prefect"]["PREFECT_SERVER_API_AUTH_STRING"] == drawn.prefect_auth
    assert env["worker"]["PREFECT_API_AUTH_STRING"] == drawn.prefect_auth
    assert env["worker"]["MLFLOW_TRACKING_PASSWORD"] == drawn.mlflow
    assert found["mlflow"].argv[-2:] == ["--app-name", "basic-auth"]
    assert (place.folder / "passwords.json").stat().st_mode & 0o777 == 0o600
    variables = {name for program in found.values() for name in program.env}
    assert not [name for name in variables if "SSL" in name or "CERT" in name or name == "HOME"]
    there = read_endpoints(place, state)
    assert there.ca is None
    assert there.environment().items() >= there.mlflow_credentials().items()
    assert there.environment()["PREFECT_API_AUTH_STRING"] == drawn.prefect_auth
    own = base64.b64encode(drawn.prefect_auth.encode()).decode()
    assert access_to(there.prefect_api_url).authorization == f"Basic {own}"
    assert access_to(there.minio_url).authorization is None
    assert not (place.home / "ca").exists()


def test_an_open_stack_has_neither(place: StackPaths) -> None:
    state = StackState(ports=PORTS, open=True)
    state.save(place)
    found = {program.name: program for program in programs(place, state)}
    factory = "fedllm.stack.prefect_server:create_app"
    assert found["prefect"].argv[1:5] == ["-m", "uvicorn", "--factory", factory]
    assert "--app-name" not in found["mlflow"].argv
    variables = {name for program in found.values() for name in program.env}
    assert not [name for name in variables if "SSL" in name or "AUTH" in name or name == "HOME"]
    assert read_endpoints(place, state).minio_url == "http://127.0.0.1:9010"
    assert set(read_endpoints(place, state).environment()) == {
        *("DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED", "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT"),
        *(
            "MLFLOW_DISABLE_TELEMETRY",
            "FEDLLM_HOME",
            "PREFECT_API_URL",
            "MLFLOW_TRACKING_URI",
            "PREFECT_HOME",
        ),
    }
    assert access_to(read_endpoints(place, state).prefect_api_url).authorization is None
    assert not (place.home / "ca").exists()
    assert not (place.folder / "passwords.json").exists()


def test_passwords_are_drawn_once_and_each_stack_has_its_own(place: StackPaths, tmp_path: Path) -> None:
    drawn = passwords(place)
    assert passwords(place) == drawn
    other = StackPaths(tmp_path / "other")
    other.create()
    assert not {drawn.prefect, drawn.mlflow} & {passwords(other).prefect, passwords(other).mlflow}
    assert len({drawn.prefect, drawn.mlflow, drawn.mlflow_forms}) == 3
    (place.folder / "passwords.json").write_text("{}")
    with pytest.raises(StackError, match="damaged"):
        passwords(place)


def test_an_open_stack_stays_so_until_somebody_says_otherwise_and_tls_ends_it() -> None:
    state = StackState()
    for secure, open_to_all, then in (
        (None, None, (False, False)),
        (None, True, (False, True)),
        (None, None, (False, True)),
        (True, None, (True, False)),
        (False, None, (False, False)),
        (None, True, (False, True)),
        (None, False, (False, False)),
    ):
        state = with_security(state, secure, open_to_all)
        assert (state.secure, state.open) == then
        assert state.has_passwords is not state.open
    for secure, known in ((True, StackState()), (None, StackState(secure=True))):
        with pytest.raises(ConfigError, match="fedllm up --no-secure --open"):
            with_security(known, secure, open_to_all=True)


def test_a_stack_of_an_older_fedllm_is_open_while_it_is_up_and_has_passwords_from_its_next_start(
    place: StackPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.state.write_text(json.dumps({"ports": PORTS, "secure": False}))
    old = StackState.load(place)
    assert not old.has_passwords
    assert read_endpoints(place, old).passwords is None
    assert with_security(old, None, None).has_passwords
    monkeypatch.setattr(local, "Control", Running)
    with pytest.raises(StackError, match="without passwords: `fedllm down`, then `fedllm up --no-open`"):
        local.up(open_to_all=False)


def test_a_users_own_prefect_is_told_the_users_password_and_no_other_server_is(
    place: StackPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    StackState(ports=PORTS).save(place)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "me:mine")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4999/api")
    mine = f"Basic {base64.b64encode(b'me:mine').decode()}"
    assert access_to("http://127.0.0.1:4999/api/health").authorization == mine
    assert access_to("http://127.0.0.1:4200/api/health").authorization not in {None, mine}
    for other in ("http://127.0.0.1:4998/api", "https://mlflow.example/version"):
        assert access_to(other).authorization is None


@pytest.mark.parametrize(
    ("named", "is_told"),
    [(None, True), ("http://localhost:4200/api", True), ("https://prefect.example/api", False)],
)
def test_a_run_tells_the_stacks_password_to_the_stacks_prefect_alone(
    place: StackPaths, monkeypatch: pytest.MonkeyPatch, named: str | None, *, is_told: bool
) -> None:
    here = read_endpoints(place, StackState(ports=PORTS))
    monkeypatch.setattr("fedllm.endpoints.endpoints", lambda: here)
    monkeypatch.setattr("os.environ", dict(os.environ) | ({"PREFECT_API_URL": named} if named else {}))
    _servers(load_federation(ROOT / "params.yaml"))
    assert ("PREFECT_API_AUTH_STRING" in os.environ) is is_told

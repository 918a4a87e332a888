"""What `--secure` decides before any server starts, and what it never lets happen silently."""

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest

from fedllm.doctor.servers import certificates
from fedllm.endpoints.addresses import Endpoints, read_endpoints
from fedllm.endpoints.passwords import passwords
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.endpoints.state import StackState
from fedllm.errors import ConfigError, StackError
from fedllm.secure import ca as authority
from fedllm.secure.ca import server_certificate
from fedllm.stack import local
from fedllm.stack.access import access_to
from fedllm.stack.programs import base_environment, programs
from fedllm.tracking import connection
from tests.stack.conftest import PORTS, Running

SWITCHES = ("PREFECT_API_TLS_INSECURE_SKIP_VERIFY", "MLFLOW_TRACKING_INSECURE_TLS")


@pytest.fixture
def secure(place: StackPaths) -> Endpoints:
    state = StackState(ports=PORTS, secure=True)
    state.save(place)
    programs(place, state)  # makes the certificates
    return read_endpoints(place, state)


def test_no_secret_is_on_a_command_line_and_every_switch_is_said_to_be_off(
    place: StackPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SWITCHES:
        monkeypatch.setenv(name, "true")  # of a shell that once needed it: no server may inherit it
    drawn = passwords(place)
    inherited = base_environment(place, own_prefect=True)
    for program in programs(place, StackState(ports=PORTS, secure=True)):
        line = " ".join(program.argv)
        assert not [s for s in (drawn.prefect, drawn.mlflow, drawn.mlflow_forms) if s in line]
        env = inherited | program.env
        assert not [name for name in SWITCHES if env.get(name, "false") != "false"]
        if program.name == "worker":
            assert [env[name] for name in SWITCHES] == ["false", "false"]
    assert drawn.prefect not in repr(drawn)


def test_clients_get_what_they_need_and_nothing_of_it_is_shown(secure: Endpoints) -> None:
    env = secure.environment()
    assert env["PREFECT_API_URL"] == "https://127.0.0.1:4200/api"
    assert env["MLFLOW_TRACKING_URI"] == "https://127.0.0.1:5000"
    assert env["PREFECT_API_SSL_CERT_FILE"] == env["MLFLOW_TRACKING_SERVER_CERT_PATH"] == str(secure.ca_file)
    assert [env[name] for name in SWITCHES] == ["false", "false"]
    assert env["MLFLOW_TRACKING_PASSWORD"] not in repr(secure)
    assert env["PREFECT_API_AUTH_STRING"].partition(":")[2] not in repr(secure)


@pytest.mark.parametrize("name", SWITCHES)
def test_a_shell_that_switches_the_checks_off_is_told_so(
    secure: Endpoints, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    for attempt in (
        secure.environment,
        lambda: access_to(f"{secure.prefect_api_url}/health"),
        lambda: access_to("https://prefect.example/api/health"),
        lambda: connection.connect(secure.mlflow_url),
        lambda: local.up(secure=True),
    ):
        with pytest.raises(ConfigError, match=name):
            attempt()


def test_the_users_own_prefect_is_told_none_of_the_stacks_secrets(
    place: StackPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = StackState(ports=PORTS, secure=True, external_prefect="https://prefect.example/api")
    state.save(place)
    found = {program.name: program.env for program in programs(place, state)}
    env = read_endpoints(place, state).environment()
    for variables in (found["worker"], env):
        assert not {"PREFECT_API_AUTH_STRING", "PREFECT_API_SSL_CERT_FILE"} & variables.keys()
    assert access_to("https://prefect.example/api/health").authorization is None
    # The port that its own server once had is nobody's now.
    assert access_to("https://127.0.0.1:4200/api/health").authorization is None
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "me:mine")
    assert access_to("https://prefect.example/api/health").authorization is not None


@pytest.mark.servers
def test_mlflows_password_goes_to_the_stacks_mlflow_and_to_no_other(
    secure: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedllm.endpoints.endpoints", lambda: secure)
    for name in secure.mlflow_credentials():
        monkeypatch.setenv(name, "before")  # so that the test's end restores what was there
        monkeypatch.delenv(name)
    connection.connect(secure.mlflow_url)
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == secure.mlflow_credentials()["MLFLOW_TRACKING_PASSWORD"]
    connection.connect("https://mlflow.example")
    assert "MLFLOW_TRACKING_PASSWORD" not in os.environ
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "the user's own")
    connection.connect("https://mlflow.example")
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "the user's own"


@pytest.mark.parametrize(
    ("is_secure", "wished", "verb"), [(False, True, "--secure"), (True, False, "--no-secure")]
)
def test_a_stack_that_is_up_the_other_way_is_left_alone(
    place: StackPaths, monkeypatch: pytest.MonkeyPatch, is_secure: bool, wished: bool, verb: str
) -> None:
    StackState(ports=PORTS, secure=is_secure).save(place)
    monkeypatch.setattr(local, "Control", Running)
    with pytest.raises(StackError, match=f"`fedllm down`, then `fedllm up {verb}`"):
        local.up(secure=wished)
    assert StackState.load(place).secure is is_secure


def test_a_secure_stack_stays_so_until_somebody_says_otherwise(
    place: StackPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    StackState(secure=True).save(place)

    class StoppedError(Exception):
        pass

    def stop(*_: object) -> None:
        raise StoppedError

    monkeypatch.setattr(local, "format_volume", stop)
    for secure, then in ((None, True), (False, False), (None, False), (True, True)):
        with pytest.raises(StoppedError):
            local.up(secure=secure)
        assert StackState.load(place).secure is then


def test_a_certificate_near_its_end_has_the_servers_start_anew(
    place: StackPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(authority, "SERVER_LIFE", timedelta(days=10))
        server_certificate(place.ca)
    StackState(ports=PORTS, secure=True).save(place)
    findings = {finding.name: finding for finding in certificates(place.ca)}
    assert (findings["certificate"].status, findings["private CA"].status) == ("warn", "ok")
    assert "`fedllm up` renews it" in findings["certificate"].remedy

    class StoppedError(Exception):
        pass

    def stop(*_: object) -> None:
        raise StoppedError

    monkeypatch.setattr(local, "Control", Running)
    monkeypatch.setattr(local, "format_volume", stop)
    with pytest.raises(StoppedError):
        local.up()
    assert Running.ended
    found = {program.name: program for program in programs(place, StackState.load(place))}
    assert found
    assert {finding.status for finding in certificates(place.ca)} == {"ok"}
    copy = place.minio_home / ".minio" / "certs"
    assert (copy / "public.crt").read_bytes() == (place.ca / "server.crt").read_bytes()
    assert (copy / "private.key").read_bytes() == (place.ca / "server.key").read_bytes()


def test_doctor_fails_for_a_certificate_that_expired_or_is_for_another_host(
    place: StackPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(authority, "SERVER_LIFE", timedelta(minutes=-5))
        server_certificate(place.ca)
    assert "expired" in {f.name: f for f in certificates(place.ca)}["certificate"].detail
    (place.ca / "server.crt").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(authority, "LOOPBACK", ("minio.example",))
        server_certificate(place.ca)
    finding = {f.name: f for f in certificates(place.ca)}["certificate"]
    assert (finding.status, finding.detail) == ("fail", "not for 127.0.0.1, localhost")


def test_the_verb_makes_the_ca_and_names_its_files(
    place: StackPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from fedllm.cli.main import app

    told = []
    for arguments in (["--host", "minio.example"], []):
        done = CliRunner().invoke(app, ["ca", *arguments, "--json"])
        assert done.exit_code == 0, done.output
        told.append(json.loads(done.stdout.splitlines()[-1]))
    assert told[0] == told[1]
    assert told[0]["hosts"] == ["127.0.0.1", "localhost", "minio.example"]
    assert Path(told[0]["ca_file"]) == place.ca / "ca.crt"
    assert "PRIVATE" not in capsys.readouterr().out

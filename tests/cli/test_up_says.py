"""What `fedllm up` says of its servers: a line each, with how to log in."""

from pathlib import Path

import pytest

from fedllm.cli.stack import _pages, client
from fedllm.endpoints.addresses import Endpoints, read_endpoints
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.endpoints.state import StackState

PORTS = {"door": 9000, "minio": 9010, "prefect": 4200, "mlflow": 5000}


@pytest.fixture
def place(tmp_path: Path) -> StackPaths:
    found = StackPaths(tmp_path / "home")
    found.create()
    return found


def there(place: StackPaths, **choice: bool | str) -> Endpoints:
    return read_endpoints(place, StackState(ports=PORTS, **choice))  # type: ignore[arg-type]


@pytest.mark.parametrize("terminal", [True, False])
def test_passwords_are_shown_on_a_terminal_and_elsewhere_their_file_is(
    place: StackPaths, monkeypatch: pytest.MonkeyPatch, *, terminal: bool
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal, raising=False)
    found = there(place)
    assert found.passwords is not None
    prefect, mlflow = _pages(found)
    assert "http://127.0.0.1:4200 " in prefect
    assert "http://127.0.0.1:5000 " in mlflow
    assert (f"password {found.passwords.prefect_auth}" in prefect) is terminal
    assert (f"user fedllm, password {found.passwords.mlflow}" in mlflow) is terminal
    for line in (prefect, mlflow):
        assert (str(place.client_env) in line) is not terminal
    assert client(found) == f". {place.client_env};"


def test_an_open_stack_is_said_to_be_open(place: StackPaths) -> None:
    found = there(place, open=True)
    assert all(line.endswith("open to every account of this machine") for line in _pages(found))
    assert client(found) == "PREFECT_API_URL=http://127.0.0.1:4200/api"


def test_a_prefect_of_the_users_own_is_said_to_be_theirs(place: StackPaths) -> None:
    found = there(place, external_prefect="http://prefect.example/api")
    assert _pages(found)[0] == "  Prefect  http://prefect.example   your own"
    assert client(found) == "PREFECT_API_URL=http://prefect.example/api"

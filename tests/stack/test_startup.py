"""`up` waits for a slow server and not for one that dies again and again; supervisord alone is real here."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedllm.endpoints.stack_paths import StackPaths
from fedllm.errors import StackError
from fedllm.stack import down, startup, up
from fedllm.stack.programs import Program, base_environment
from fedllm.stack.startup import Startup
from fedllm.stack.supervise import Control, start_daemon, write_conf
from tests.own_ports import own_ports

pytestmark = pytest.mark.servers

Started = Callable[..., Startup]

SLEEPS = "echo it loads; exec sleep 600"
DIES = "sleep 1.5; echo 'ValueError: no such column'; exit 1"  # after the second that supervisord looks at


def program(name: str, script: str, *, autostart: bool = True) -> Program:
    return Program(name, ["sh", "-c", script], autostart=autostart)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StackPaths]:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr("fedllm.stack.local._USUAL", own_ports(27_000))
    place = StackPaths.here()
    place.create()
    yield place
    down()


@pytest.fixture
def lines() -> list[str]:
    """What `progress` hears."""
    return []


@pytest.fixture
def started(place: StackPaths, lines: list[str]) -> Started:
    """Has supervisord start one program, and looks after it."""

    def start(script: str) -> Startup:
        write_conf(place, [program("mlflow", script, autostart=False)])
        start_daemon(place, base_environment(place, own_prefect=True))
        found = Startup(Control(place), lines.append)
        found.start("mlflow")
        return found

    return start


def with_programs(monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Have `up` start these scripts as its servers."""
    found = [program(name, script, autostart=name != "worker") for name, script in scripts.items()]
    monkeypatch.setattr("fedllm.stack.local.programs", lambda *_: found)


@pytest.mark.timeout(120)
def test_a_server_that_dies_again_and_again_ends_up_with_its_last_words(
    place: StackPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_programs(monkeypatch, minio=SLEEPS, door=SLEEPS, mlflow=DIES, prefect=SLEEPS, worker=SLEEPS)
    with pytest.raises(StackError) as refused:
        up()
    log = place.logs / "mlflow.log"
    assert str(refused.value) == (
        f"mlflow died 3 times while it started: ValueError: no such column (see {log})"
    )


@pytest.mark.timeout(240)
def test_a_worker_that_dies_again_and_again_ends_up_with_its_last_words(
    place: StackPaths, prefect: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", prefect[0])
    with_programs(monkeypatch, minio=SLEEPS, door=SLEEPS, mlflow=SLEEPS, worker=DIES)
    heard: list[str] = []
    with pytest.raises(StackError, match=r"worker died 3 times .*no such column \(see .*worker\.log\)"):
        up(progress=heard.append)
    again = f"worker died and is started again: ValueError: no such column (see {place.logs / 'worker.log'})"
    assert heard.count(again) == 2


def test_a_server_that_dies_once_is_waited_for(started: Started, place: StackPaths, lines: list[str]) -> None:
    flag = place.home / "second life"
    found = started(f"test -e '{flag}' && exec sleep 600; touch '{flag}'; {DIES}")
    ready = iter([False] * 60 + [True])
    assert found.wait("mlflow", lambda: next(ready)) is True
    assert [line.partition(":")[0] for line in lines] == ["mlflow died and is started again"]


def test_a_slow_server_is_waited_for_and_the_wait_is_told(
    started: Started, place: StackPaths, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "_REMINDER", 0.5)
    found = started(SLEEPS)
    ready = iter([False] * 12 + [True])
    assert found.wait("mlflow", lambda: next(ready)) is True
    assert lines
    log = place.logs / "mlflow.log"
    assert {line.partition(":")[2] for line in lines} == {f" it loads (see {log})"}


def test_a_server_that_lives_and_never_answers_is_named_with_its_log(
    started: Started, place: StackPaths
) -> None:
    found = started(SLEEPS)
    with pytest.raises(StackError) as refused:
        found.wait("mlflow", lambda: False, patience=1.0)
    log = place.logs / "mlflow.log"
    assert str(refused.value) == f"mlflow did not answer within 1 s: it loads (see {log})"


def test_a_server_that_answers_already_is_not_waited_for(started: Started, lines: list[str]) -> None:
    assert started(SLEEPS).wait("mlflow", lambda: True) is False
    assert lines == []


def test_a_program_that_may_not_be_run_is_said_so(place: StackPaths) -> None:
    command = place.home / "mlflow"
    command.write_text("")
    write_conf(place, [Program("mlflow", [str(command)], autostart=False)])
    start_daemon(place, dict(os.environ))
    with pytest.raises(StackError, match=r"mlflow does not start: .*(permission|not executable)"):
        Startup(Control(place), print).start("mlflow")

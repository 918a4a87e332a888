"""JSON logs: of single records, and of a whole real round: its flow, its agent, its training process."""

import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedllm.errors import ConfigError, DataError, LeaseError
from fedllm.logs import MANNERS, about, fields, log_as_asked, wants_json
from tests.report.trained import configuration

RECORD = "the patient said: it hurts here"


def record(error: Exception | None = None) -> logging.LogRecord:
    info = None
    if error is not None:
        try:
            raise error
        except type(error):
            info = sys.exc_info()
    return logging.LogRecord("fedllm.agent", logging.ERROR, __file__, 1, "round %d failed", (3,), info)


@pytest.fixture
def logging_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    ours = logging.getLogger("fedllm")
    level, hooks = ours.level, (sys.excepthook, threading.excepthook)
    for name in MANNERS:
        monkeypatch.setenv(name, "")  # so that they are as before again
    yield
    ours.setLevel(level)
    logging.captureWarnings(capture=False)
    sys.excepthook, threading.excepthook = hooks


def test_a_line_says_when_how_grave_who_what_and_about_what() -> None:
    with about(federation="clinics", run="run-1"), about(round=3, site="east"):
        told = fields(record())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told.pop("time"))
    assert told == {
        "level": "error",
        "logger": "fedllm.agent",
        "message": "round 3 failed",
        "federation": "clinics",
        "run": "run-1",
        "round": 3,
        "site": "east",
    }
    assert "run" not in fields(record())


@pytest.mark.parametrize("error", [ValueError(RECORD), DataError(f"record 7: {RECORD}"), KeyError(RECORD)])
def test_an_exception_is_told_by_its_type_and_place_and_quotes_no_record(error: Exception) -> None:
    told = fields(record(error))
    assert told["error"] == type(error).__name__
    assert told["stack"][-1].startswith("test_logs.py:")
    assert RECORD not in json.dumps(told)


def test_an_error_of_ours_that_speaks_of_settings_keeps_its_line() -> None:
    assert fields(record(LeaseError("another coordinator leads")))["reason"] == "another coordinator leads"


def passed(msg: object, args: Any) -> logging.LogRecord:  # noqa: ANN401 - as logging takes them
    return logging.LogRecord("fedllm.training.dp", logging.WARNING, __file__, 1, msg, args, None)


@pytest.mark.parametrize("error", [ValueError(RECORD), DataError(f"record 7: {RECORD}"), KeyError(RECORD)])
def test_an_exception_within_a_message_is_told_by_its_type(error: Exception) -> None:
    kind = type(error).__name__
    assert fields(passed("left out: %s", (error,)))["message"] == f"left out: {kind}"
    assert fields(passed("left out: %r, %d", (error, 7)))["message"] == f"left out: {kind!r}, 7"
    assert fields(passed("left out: %(why)s", ({"why": error},)))["message"] == f"left out: {kind}"
    assert fields(passed(error, ()))["message"] == kind
    said = passed("left out: %s", (error,))
    fields(said)
    assert RECORD in said.getMessage()  # a site's own plain lines keep it


def test_an_error_within_a_message_that_speaks_of_settings_keeps_its_line() -> None:
    said = passed("%s is over: %s", ("run-1", LeaseError("another coordinator leads")))
    assert fields(said)["message"] == "run-1 is over: another coordinator leads"


@pytest.mark.parametrize(("value", "asked"), [("", False), ("text", False), ("json", True)])
def test_the_variable_asks_for_json(monkeypatch: pytest.MonkeyPatch, value: str, asked: bool) -> None:
    monkeypatch.setenv("FEDLLM_LOG", value)
    assert wants_json() is asked


def test_another_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDLLM_LOG", "yaml")
    with pytest.raises(ConfigError, match="FEDLLM_LOG=yaml: use json or text"):
        wants_json()


@pytest.mark.servers
@pytest.mark.usefixtures("logging_as_before")
def test_to_be_asked_twice_doubles_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDLLM_LOG", "json")
    script = (
        "import logging, warnings\n"
        "from fedllm.logs import log_as_asked\n"
        "logging.basicConfig()\n"
        "log_as_asked(); log_as_asked()\n"
        "logging.getLogger('fedllm.x').info('once', extra={'secret': 'hunter2'})\n"
        "warnings.warn('old', stacklevel=1)\n"
        "1 / 0\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["logger"] for line in told] == ["fedllm.x", "py.warnings", "fedllm"]
    assert told[2]["error"] == "ZeroDivisionError"
    assert "hunter2" not in done.stderr
    path = tmp_path / "agent.log"
    assert log_as_asked(path)
    logging.getLogger("fedllm.agent").info("to the file")
    assert json.loads(path.read_text())["message"] == "to the file"


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], list[Any], str]:
    """What a flow's process and its agent logged of one real round, as they wrote it."""
    folder = tmp_path_factory.mktemp("logged")
    sites = {"source": str(folder / "corpus.jsonl"), "sites": ["east", "west"]}
    rounds = {"max": 1, "min_sites": 2, "deadline": "600s", "join": "10m"}
    config = configuration(folder, name="logged", simulation=sites, rounds=rounds)
    federation = folder / "logged.yaml"
    federation.write_text(yaml.safe_dump(config.public_json()))
    script = (
        "from flows.federated_training import federated_training\n"
        f"federated_training(config_uri={str(federation)!r}, run_id='run-1')\n"
    )
    environment = os.environ | {
        "FEDLLM_LOG": "json",
        "FEDLLM_HOME": str(folder / "home"),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "480",
    }
    environment.pop("PREFECT_API_URL", None)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    agent = (folder / "home" / "simulated" / "logged" / "east" / "agent.log").read_text()
    corpus = (folder / "corpus.jsonl").read_text()
    return _lines(done.stderr), _lines(agent), corpus


def _lines(text: str) -> list[Any]:
    """One object a line, and nothing else."""
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.servers
def test_a_real_round_is_told_with_its_run_round_and_site(played: tuple[list[Any], list[Any], str]) -> None:
    flow, agent, _ = played
    waited = [line for line in flow if line["message"].startswith("east: updated")]
    assert [(line["run"], line["round"], line["site"]) for line in waited] == [("run-1", 1, "east")]
    dispatched = next(line for line in flow if line["message"] == "round 1 goes to east, west")
    assert (dispatched["federation"], dispatched["run"], dispatched["round"]) == ("logged", "run-1", 1)
    accepted = next(line for line in agent if "accept" in line["message"])
    assert (accepted["federation"], accepted["site"]) == ("logged", "east")
    assert (accepted["run"], accepted["round"]) == ("run-1", 1)


@pytest.mark.servers
def test_no_line_of_a_real_round_holds_a_record_or_a_key(played: tuple[list[Any], list[Any], str]) -> None:
    flow, agent, corpus = played
    told = json.dumps([flow, agent])
    for line in corpus.splitlines():
        assert json.loads(line)["text"] not in told
    assert "AGE-SECRET-KEY" not in told
    assert "PRIVATE KEY" not in told

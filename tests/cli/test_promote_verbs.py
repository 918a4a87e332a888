"""`fedllm promote` and `fedllm rollback` as a reviewer runs them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from fedllm.cli.main import app
from fedllm.errors import FedllmError, IdentityError
from fedllm.review.register import Register
from fedllm.secure.identity import create_identity, fingerprint
from fedllm.stack import prefect_events
from fedllm.tracking import RoundRelease
from tests.review.reviewed import PIN, publish, reset

WHO = ("--reviewer", "Ann Example", "--reason", "reads well")


@pytest.fixture(scope="module")
def shared(
    local_mlflow: str,
    tmp_path_factory: pytest.TempPathFactory,
    make_release: Callable[..., RoundRelease],
) -> Register:
    """Three versions: 30, 31 and 12 of 40 right."""
    return publish(
        local_mlflow, make_release, "verbs", 30, 31, 12, folder=tmp_path_factory.mktemp("artifacts")
    )


@pytest.fixture
def config(shared: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FEDLLM_PIN", PIN)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    reset(shared)
    path = tmp_path / "federation.yaml"
    task = {"labels": {"positive": " positive", "negative": " negative"}}
    path.write_text(yaml.safe_dump({"name": "verbs", "task": task, "tracking": {"uri": shared.uri}}))
    return path


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What a Prefect that is configured is sent."""
    sent: list[tuple[str, Any]] = []
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr(
        prefect_events.PrefectApi, "call", lambda self, path, body: sent.append((f"{self.url}{path}", body))
    )
    return sent


def run(config: Path, *arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*arguments, "--config", str(config), "--json"])
    if done.exception is not None:
        raise done.exception
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_promote_and_roll_back(config: Path, told: list[tuple[str, Any]]) -> None:
    first = run(config, "promote", "1", *WHO)
    assert first["schema"] == "fedllm.promote/1"
    assert (first["status"], first["champion"], first["previous"]) == ("approved", "1", None)
    second = run(config, "promote", "models:/verbs/2", *WHO)
    assert (second["champion"], second["previous"]) == ("2", "1")
    assert second["reviewer"] == "Ann Example (asserted)"
    assert second["gates"]["quality"]["verdict"] == "pass"
    back = run(config, "rollback", "--reason", "a doubt", "--reviewer", "Bob")
    assert back["schema"] == "fedllm.rollback/1"
    assert (back["from"], back["champion"], back["previous"], back["reviewer"]) == (
        "2",
        "1",
        None,
        "Bob (asserted)",
    )
    assert [url for url, _ in told] == ["http://127.0.0.1:9/api/events"] * 3
    kinds = [body[0]["event"] for _, body in told]
    assert kinds == ["fedllm.review.approved", "fedllm.review.approved", "fedllm.review.rolled-back"]
    assert told[0][1][0]["resource"]["prefect.resource.id"] == "fedllm.federation.verbs"


def test_the_challenger_is_shown_by_default_and_a_failing_gate_refuses_it(
    config: Path, told: list[tuple[str, Any]], shared: Register
) -> None:
    assert run(config, "promote", "models:/verbs@challenger", "--check")["version"] == "3"
    assert run(config, "promote", "--check")["version"] == "3"
    run(config, "promote", "1", *WHO)
    with pytest.raises(FedllmError, match="version 3 of verbs is not promoted: quality: fail"):
        run(config, "promote", "3", *WHO)
    assert shared.aliases().champion == "1"
    assert told[-1][1][0]["event"] == "fedllm.review.refused"


def test_a_prefect_that_is_away_costs_the_event_alone(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert run(config, "promote", "1", *WHO)["champion"] == "1"


def test_a_rejection_is_on_record_and_moves_nothing(config: Path, shared: Register) -> None:
    done = run(config, "promote", "2", "--reject", *WHO)
    assert (done["status"], done["champion"]) == ("rejected", None)
    assert shared.tags("2")["review.status"] == "rejected"


def test_a_signature_by_ones_own_keys_is_checked_again(
    config: Path, tmp_path: Path, shared: Register
) -> None:
    ann = create_identity(tmp_path / "keys", "ann")
    mark = fingerprint(ann.public)
    done = run(config, "promote", "1", "--key", str(tmp_path / "keys"), *WHO)
    assert done["reviewer"] == f"Ann Example (signed {mark})"
    decision = run(config, "promote", "1", "--check")["decision"]
    assert decision["reviewer"] == f"Ann Example (signed {mark})"
    record = shared.tags("1")["review.record"].replace("reads well", "reads badly")
    shared.client.set_model_version_tag("verbs", "1", "review.record", record)
    assert "NOT signed" in run(config, "promote", "1", "--check")["decision"]["reviewer"]


def test_without_the_coordinators_keys_nothing_is_signed(config: Path, shared: Register) -> None:
    with pytest.raises(IdentityError, match="cannot read"):
        run(config, "promote", "1", "--sign", *WHO)
    assert shared.aliases().champion is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["1"], "needs a reviewer"),
        ([*WHO], "say which version"),
        (["1", "--over", "2", *WHO], "it was version 2, now none"),
        (["1", "--over", "it", *WHO], "--over it names no version"),
        (["1", "--reviewer", "Ann", "--reason", " "], "needs a reason"),
        (["9", *WHO], "verbs has no version 9"),
        (["latest", *WHO], "names no version"),
        (["models:/other/1", *WHO], "is of other"),
        (["models:/verbs@champion", *WHO], "verbs has no champion"),
    ],
)
def test_what_cannot_be_decided_is_said_in_a_line(config: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(FedllmError, match=words) as caught:
        run(config, "promote", *arguments)
    assert "\n" not in str(caught.value)


def test_what_a_reviewer_was_shown_is_what_is_decided_about(config: Path, shared: Register) -> None:
    done = CliRunner().invoke(app, ["promote", "--check", "2", "--config", str(config)])
    assert f"fedllm promote 2 --over none --config {config} --reviewer" in done.stdout
    run(config, "promote", "2", "--over", "none", *WHO)
    run(config, "promote", "1", "--over", "2", *WHO)
    with pytest.raises(FedllmError, match="the champion of verbs is version 1, not 2: look again"):
        run(config, "rollback", "--from", "2")
    assert run(config, "rollback", "--from", "1")["champion"] == "2"
    assert shared.aliases().champion == "2"


@pytest.mark.servers
def test_rolling_back_to_nothing_is_one_line_on_stderr_and_a_true_exit_code(config: Path) -> None:
    command = [sys.executable, "-m", "fedllm", "rollback", "--config", str(config), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, env=os.environ)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == "fedllm: verbs has no champion: there is nothing to roll back"

"""The line that Ctrl-C leaves: typed as it stands, it goes on with the run."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.in_process import fedllm
from tests.cli.test_first_hour import CONFIG


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What trainings were started with; each is interrupted after its first round."""
    started: list[dict[str, Any]] = []

    def run(config: Any, **options: Any) -> None:  # noqa: ANN401 - any of them
        started.append({"name": config.name, **options})
        raise KeyboardInterrupt

    monkeypatch.setattr("fedllm.cli.run.run", run)
    monkeypatch.setattr("fedllm.coordinator.training.stored_config", lambda _name, _run: "kept")
    return started


@pytest.mark.parametrize(
    "options",
    [[], ["--set", "name=other"], ["--agents", "external"], ["--set", "name=other", "--set", "rounds.max=1"]],
)
def test_it_finds_the_run_again(tmp_path: Path, runs: list[dict[str, Any]], options: list[str]) -> None:
    file = tmp_path / "my fed.yaml"
    file.write_text(yaml.safe_dump(CONFIG))
    stopped = fedllm("run", file, *options, folder=tmp_path)
    assert stopped.returncode == 130
    line = stopped.stderr.rstrip().rpartition("go on with: fedllm ")[2]
    assert fedllm(*shlex.split(line), folder=tmp_path).returncode == 130
    first, second = runs
    assert second["resume"] == first["run_id"]
    assert (second["name"], second["agents"]) == (first["name"], first["agents"])

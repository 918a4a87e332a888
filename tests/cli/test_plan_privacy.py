"""`fedllm plan-privacy` as a user runs it."""

import json
from pathlib import Path

import pytest
import yaml

from tests.cli.in_process import Done, fedllm

CONFIG = {
    "name": "planned",
    "model": {"base": "tiny"},
    "task": {"kind": "text"},
    "rounds": {"max": 2},
    "local": {"steps": 5, "batch_size": 32},
    "privacy": {"unit": "none"},
    "simulation": {"sites": ["amazon", "movies"]},
}
RECORD = ("unit=record", "epsilon=3", "clip=0.5", "sampling_rate=0.1")


def run(folder: Path, *arguments: str, privacy: tuple[str, ...] = ()) -> Done:
    (folder / "fed.yaml").write_text(yaml.safe_dump(CONFIG))
    sets = [part for setting in privacy for part in ("--set", f"privacy.{setting}")]
    return fedllm("plan-privacy", "fed.yaml", *arguments, *sets, folder=folder)


def test_the_last_line_is_the_plan_and_the_files_are_there(tmp_path: Path) -> None:
    done = run(tmp_path, "--json", "--out", "told", privacy=(*RECORD, "sites={movies: {sampling_rate: 0.2}}"))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["schema"] == "fedllm.privacy-plan/1"
    assert {name: told[name] for name in ("delta", "sampling_rate", "steps", "rounds", "unit")} == {
        "delta": 1e-5,
        "sampling_rate": 0.1,
        "steps": 10,
        "rounds": 2,
        "unit": "record",
    }
    assert told["adjacency"] == "add-remove"
    assert 2.9 < told["epsilon"] <= 3
    assert list(told["sites"]) == ["movies"]
    assert [row["round"] for row in told["by_round"]] == [1, 2]
    # tiny: 2 layers, q_proj 32 and v_proj 16 rows of B at rank 8
    assert told["snr"]["size"] == 2 * (32 + 16) * 8
    assert json.loads((tmp_path / "told" / "privacy_plan.json").read_text()) == told
    assert (tmp_path / "told" / "privacy_plan.png").read_bytes().startswith(b"\x89PNG")


def test_words_name_unit_adjacency_delta_trust_and_the_signal(tmp_path: Path) -> None:
    done = run(tmp_path, privacy=RECORD)
    assert done.returncode == 0, done.stderr
    for part in ("delta 1e-05", "by record", "add-remove", "PLD", "trust: local", "signal to noise: at most"):
        assert part in done.stdout
    assert (tmp_path / "reports" / "privacy_plan.png").exists()


def test_without_dp_it_says_so_and_succeeds(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no DP configured")
    done = run(tmp_path, "--json")
    assert json.loads(done.stdout.splitlines()[-1])["epsilon"] is None


@pytest.mark.parametrize("wrong", ["noise_multiplier=0.3", "sites={moovies: {sampling_rate: 0.1}}"])
def test_a_plan_that_cannot_be_kept_is_one_line_and_exit_code_2(tmp_path: Path, wrong: str) -> None:
    done = run(tmp_path, privacy=(*RECORD, wrong))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("fedllm: ")
    assert "privacy." in done.stderr
    assert not (tmp_path / "reports").exists()

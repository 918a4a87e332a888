"""`fedllm audit` at a site: what it finds, and that nothing of it leaves or stays behind."""

import hashlib
import json
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from fedllm.agent.join import init_site
from fedllm.auditing.site import Findings, simulated_site, site_at, verify_site
from fedllm.cli.audit import register
from fedllm.config import load_federation
from fedllm.data.records import write_records
from fedllm.errors import ConfigError
from fedllm.models.base import resolve_base
from fedllm.privacy.ledger import Ledger
from fedllm.secure.identity import load_identity
from tests.privacy.ledger_home import DATA, tamper, trained

CONFIG: dict[str, Any] = {
    "name": "fed",
    "model": {"base": "tiny"},
    "task": {"labels": {"positive": " positive", "negative": " negative"}, "template": "{text} :"},
    "rounds": {"max": 2},
    "local": {"optimizer": "sgd", "lr": 0.1, "steps": 2, "batch_size": 25, "precision": "fp32"},
    "privacy": {"unit": "record", "epsilon": 1.0, "clip": 0.5, "sampling_rate": 0.1, "noise_multiplier": 1.5},
    "store": {"url": "file:///nowhere"},
}

app = typer.Typer()
register(app)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a federation file, a site with 250 records, and the site's ledger of one training."""
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "home"))
    (tmp_path / "fed.yaml").write_text(yaml.safe_dump(CONFIG))
    records = [{"text": f"text {n}", "label": ("positive", "negative")[n % 2]} for n in range(250)]
    write_records(tmp_path / "amazon.jsonl", records)
    init_site("amazon", tmp_path / "amazon.jsonl", tmp_path / "amazon", base="tiny", threads=1)
    with closing(
        Ledger(tmp_path / "amazon" / "ledger.db", load_identity(tmp_path / "amazon" / "keys"))
    ) as ledger:
        trained(ledger)
    resolve_base("tiny")  # into the cache, which is no part of this
    return tmp_path


def run(place: Path, *arguments: str, home: bool = True) -> tuple[int, dict[str, Any], str]:
    where = ["--home", str(place / "amazon")] if home else []
    told = CliRunner().invoke(
        app, [str(place / "fed.yaml"), *where, "--canaries", "64", *arguments, "--json"]
    )
    return told.exit_code, json.loads(told.stdout.splitlines()[-1]), told.stdout


def files(place: Path) -> dict[str, str]:
    """Every file below, by its bytes; SQLite's own notes come and go with its readers."""
    return {
        str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(place.rglob("*"))
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }


def test_an_audit_tells_of_ledgers_one_run_and_membership(place: Path) -> None:
    code, told, out = run(place)
    assert code == 0
    assert len(out.splitlines()) == 1
    assert (told["schema"], told["site"]) == ("fedllm.audit/1", "amazon")
    assert told["ledgers"]["verdict"] == "whole"
    assert [(row["dataset"], row["entries"]) for row in told["ledgers"]["chains"]] == [(DATA, 5)]
    ran = told["one_run"]
    assert ran["claim"] == pytest.approx(0.96, abs=0.01)  # by the accounting; a noise of 1.47 would spend 1.0
    assert ran["lower_bound"] <= ran["claim"]
    assert (ran["canaries"], ran["guesses"], ran["confidence"]) == (64, 32, 0.95)
    assert ran["verdict"] == "no violation found"
    members = told["membership"]
    assert (members["members"], members["non_members"], members["kind"]) == (125, 125, "heuristic")
    assert members["interval"][0] <= members["tpr_at_1_percent_fpr"] <= members["interval"][1]


def test_canaries_reach_no_file_and_nothing_is_sent(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("an audit opened a connection")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    before = files(place)
    code, _, _ = run(place)
    assert code == 0
    assert files(place) == before


def test_the_words_say_lower_bound_and_heuristic_and_that_results_stay(place: Path) -> None:
    arguments = [str(place / "fed.yaml"), "--home", str(place / "amazon"), "--canaries", "64"]
    told = " ".join(CliRunner().invoke(app, arguments).stdout.replace("│", " ").split())
    assert "lower bound, no violation found" in told
    assert "heuristic" in told
    assert "stay at the site" in told
    assert "measured" not in told


def test_a_training_with_less_noise_than_its_claim_is_a_violation(place: Path) -> None:
    spent = ["--set", "privacy.epsilon=1000000", "--set", "privacy.noise_multiplier=0.05"]
    enough = ["--canaries", "256"]  # 32 guesses, some of them wrong by chance, are a little few
    code, told, _ = run(place, *spent, "--set", "privacy.sampling_rate=1.0", "--claim", "1", *enough)
    assert code == 1
    assert told["one_run"]["verdict"] == "violation"
    assert told["one_run"]["lower_bound"] > 1


def test_a_broken_ledger_is_told_and_ends_with_1(place: Path) -> None:
    assert tamper(place / "amazon" / "ledger.db", "DELETE FROM entry WHERE seq = 2") == 1
    code, told, _ = run(place)
    assert code == 1
    assert told["ledgers"]["verdict"] == "broken"
    assert "entry" in told["ledgers"]["chains"][0]["verdict"]


def test_without_dp_nothing_is_called_green(place: Path) -> None:
    code, told, _ = run(place, "--set", "privacy.unit=none")
    assert code == 0
    assert told["one_run"] == {"verdict": "no DP configured"}
    assert told["membership"]["kind"] == "heuristic"


def test_where_whole_sites_are_the_unit_one_site_observes_nothing(place: Path) -> None:
    _, told, _ = run(place, "--set", "privacy.unit=site", "--set", "privacy.sampling_rate=null")
    assert told["one_run"] == {"verdict": "not observable"}


def test_a_claim_that_64_canaries_cannot_refute_is_insufficient_power(place: Path) -> None:
    code, told, _ = run(place, "--claim", "3")
    assert code == 0
    assert told["one_run"]["verdict"] == "insufficient power"


def test_a_simulated_site_is_the_first_unless_it_is_named(place: Path) -> None:
    simulation = {"source": "amazon.jsonl", "sites": 2, "partition": "iid", "threads": 1}
    public = {"public": str(place / "public.jsonl")}
    write_records(place / "public.jsonl", [{"text": "public", "label": "positive"}])
    (place / "fed.yaml").write_text(yaml.safe_dump(CONFIG | {"simulation": simulation, "evaluation": public}))
    config = load_federation(place / "fed.yaml")
    assert (simulated_site(config).name, simulated_site(config, "site-2").name) == ("site-1", "site-2")
    with pytest.raises(ConfigError, match="known: site-1, site-2"):
        simulated_site(config, "amazon")
    code, told, _ = run(place, "--site", "site-2", home=False)
    assert code == 0
    assert (told["site"], told["ledgers"]) == ("site-2", {"verdict": "none", "chains": []})


def test_a_site_without_a_ledger_says_so(place: Path) -> None:
    (place / "amazon" / "ledger.db").unlink()
    rows = verify_site(site_at(place / "amazon"))
    assert rows == []
    assert "no privacy event was recorded" in Findings(rows).rows[0]["finding"]

"""`fedllm ledger` as an owner runs it: what was spent, whether it all holds, and a copy for an auditor."""

import json
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from fedllm.agent.join import init_site
from fedllm.agent.rekey import rekey_site
from fedllm.config import load_site
from fedllm.privacy.accounting import Event, epsilon
from fedllm.privacy.chain import LedgerEntry, verify_chain
from fedllm.privacy.ledger import Ledger, Limits
from fedllm.privacy.site_ledger import site_ledger
from fedllm.secure.identity import load_identity
from tests.cli.in_process import Done, fedllm
from tests.privacy.ledger_home import charge, reserve, tamper

PLAN = Event(0.01, 1.0, 1000)
SECOND = Event(0.01, 1.0, 500)
LIMITS = Limits(8.0, 1e-5)


def home_at(folder: Path, name: str, **settings: object) -> Path:
    data = folder / f"{name}.jsonl"
    data.write_text('{"text": "one"}\n')
    policy = {"total_epsilon": 8.0, "max_delta": 1e-5}
    init_site(name, data, folder / name, base="tiny", policy=policy, **settings)
    return folder / name


def opened(home: Path) -> Ledger:
    return site_ledger(home, load_site(home / "site.yaml"), load_identity(home / "keys"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A site that took part in a training of each of two federations, and in a second one of the first."""
    home = home_at(tmp_path, "amazon", dataset_id="reviews")
    with closing(opened(home)) as ledger:
        trainings = (("fed", "run-1", PLAN), ("fed", "run-2", SECOND), ("notes", "run-1", PLAN))
        for federation, run, event in trainings:
            reserve(ledger, run, federation=federation, event=event, limit=LIMITS, dataset="reviews")
            for number in (1, 2):
                charge(ledger, number, run=run, federation=federation, steps=50, dataset="reviews")
    return home


def run(*arguments: str | Path) -> Done:
    return fedllm("ledger", *arguments)


def test_show_tells_each_training_and_the_total_against_the_budget(home: Path) -> None:
    done = run("show", "--home", home, "--json")
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout.splitlines()[-1])["datasets"]
    assert {name: told[name] for name in ("dataset", "unit", "adjacency", "epsilon_budget", "delta")} == {
        "dataset": "reviews",
        "unit": "record",
        "adjacency": "add-remove",
        "epsilon_budget": 8.0,
        "delta": 1e-5,
    }
    names = ("federation", "run", "steps_charged", "steps_reserved", "open")
    assert [tuple(one[name] for name in names) for one in told["trainings"]] == [
        ("fed", "run-1", 100, 1000, False),
        ("fed", "run-2", 100, 500, True),
        ("notes", "run-1", 100, 1000, True),
    ]
    first = told["trainings"][0]
    assert first["epsilon"] == epsilon([Event(0.01, 1.0, 100)], 1e-5)
    assert first["epsilon_reserved"] == pytest.approx(1.828, abs=5e-4)
    assert told["epsilon"] == epsilon([Event(0.01, 1.0, 1600)], 1e-5)
    assert told["epsilon"] < told["epsilon_filter"] < 8


def test_show_is_a_table_for_people(home: Path) -> None:
    done = run("show", "--home", home)
    assert done.returncode == 0, done.stderr
    for said in (
        "reviews",
        "unit record",
        "add-remove",
        "run-2",
        "settled",
        "of 1.829",  # rounded up
        "Rényi",
        "of 8 at delta",
    ):
        assert said in done.stdout


def test_a_ledger_that_holds_is_said_to(home: Path) -> None:
    done = run("verify", "--home", home, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    with closing(opened(home)) as ledger:
        head = ledger.head("reviews")
        assert head is not None
        assert told["datasets"] == {"reviews": head.model_dump()}


def test_a_broken_ledger_is_one_line_and_exit_code_1(home: Path) -> None:
    tamper(home / "ledger.db", "DELETE FROM entry WHERE seq = 3")
    done = run("verify", "--home", home)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "fedllm: ledger of reviews: entry 4 stands where entry 3 is due: entries were removed or swapped"
    ]


def test_a_torn_file_is_one_line_and_exit_code_1(home: Path) -> None:
    data = (home / "ledger.db").read_bytes()
    (home / "ledger.db").write_bytes(data[: len(data) // 2])
    done = run("show", "--home", home)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "is torn" in done.stderr


def test_an_export_names_one_federations_runs_and_verifies(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "ledger.jsonl"
    done = run("export", "--home", home, "--out", out, "--federation", "notes")
    assert done.returncode == 0, done.stderr
    entries = [LedgerEntry.model_validate_json(line) for line in out.read_text().splitlines()]
    assert {e.context.federation for e in entries if e.context} == {"notes"}
    assert '"fed"' not in out.read_text()
    assert verify_chain(entries, load_identity(home / "keys").public.verify).seq == len(entries) - 1


def test_no_ledger_is_made_where_there_is_none(tmp_path: Path) -> None:
    home = home_at(tmp_path, "movies")
    done = run("verify", "--home", home)
    assert done.returncode == 1
    assert "movies has taken part in no training with DP" in done.stderr
    assert not (home / "ledger.db").exists()


def test_a_site_with_new_keys_goes_on_with_its_ledger(home: Path) -> None:
    """The former keys are found where `fedllm site rekey` leaves them."""
    rekey_site(home)
    with closing(opened(home)) as ledger:
        charge(ledger, 3, run="run-2", steps=50, dataset="reviews")
        kinds = [entry.kind for entry in ledger.entries("reviews", show=None)]
    assert kinds[-2:] == ["rekey", "charge"]
    assert run("verify", "--home", home).returncode == 0


def test_a_second_home_spends_the_same_budget_once_it_is_admitted(home: Path, tmp_path: Path) -> None:
    second = home_at(tmp_path, "amazon-b", dataset_id="reviews", ledger="../amazon/ledger.db")
    assert yaml.safe_load((second / "site.yaml").read_text())["ledger"] == "../amazon/ledger.db"
    done = run("admit", second / "card.json", "--home", home, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["key"] == load_identity(second / "keys").public.verify
    with closing(opened(second)) as ledger:
        reserve(ledger, "run-9", federation="third", event=PLAN, limit=LIMITS, dataset="reviews")
        assert len(ledger.state("reviews").reservations) == 4

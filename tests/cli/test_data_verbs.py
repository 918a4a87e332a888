"""`fedllm data anonymize` and `fedllm data forget` as a site runs them."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fedllm.agent.join import init_site
from fedllm.data.anonymize import pseudonym
from fedllm.data.forget import Forgotten
from fedllm.data.records import read_records
from fedllm.data.site_key import read_key
from tests.cli.in_process import fedllm

RECORDS = [
    {"id": "1", "text": "Write to anna@example.com", "label": "good", "person": "anna"},
    {"id": "2", "text": "Call 212-555-0123", "label": "bad", "person": "bjorn"},
    {"id": "3", "text": "Anna Schmidt was here", "label": "good", "person": "anna"},
]


class Site:
    """A site's folder with its data, and the command line there, in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data.jsonl"
        self.data.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
        self.home = folder / "fedllm" / "sites" / "amazon"
        init_site("amazon", self.data, self.home, base="tiny")

    def run(self, *arguments: str | Path) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        done = fedllm("data", *arguments, folder=self.folder)
        return done.returncode, done.stdout, done.stderr

    def told(self, *arguments: str | Path) -> dict[str, Any]:
        code, out, err = self.run(*arguments, "--json")
        assert (code, err) == (0, "")
        said: dict[str, Any] = json.loads(out)
        return said


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "fedllm"))
    return Site(tmp_path)


@pytest.mark.servers
def test_a_site_anonymizes_with_a_key_of_its_own_that_is_never_printed(site: Site) -> None:
    (site.folder / "names").write_text("Anna Schmidt\n")
    command = [sys.executable, "-m", "fedllm", "data", "anonymize", "data.jsonl", "out.jsonl"]
    done = subprocess.run(
        [*command, "--names", "names"], cwd=site.folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")  # the libraries below keep quiet
    assert "1 EMAIL, 1 NAME, 1 PHONE" in done.stdout
    assert "once it is lost, the same values get other pseudonyms" in done.stdout
    assert "no differential privacy" in done.stdout
    key = read_key(site.home / "pseudonym.key")
    assert key is not None
    assert key.hex() not in done.stdout
    told = read_records(site.folder / "out.jsonl")
    assert [record["text"] for record in told] == [
        f"Write to {pseudonym(key, 'EMAIL', 'anna@example.com')}",
        f"Call {pseudonym(key, 'PHONE', '212-555-0123')}",
        f"{pseudonym(key, 'NAME', 'Anna Schmidt')} was here",
    ]
    assert [record | {"text": ""} for record in told] == [record | {"text": ""} for record in RECORDS]


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("anonymize", "data.jsonl", "data.jsonl"), 2, "is the input file"),
        (("anonymize", "data.jsonl"), 2, "IN OUT, or --measure"),
        (("anonymize", "data.jsonl", "out.jsonl", "--fields", "label"), 2, "never changed"),
        (("anonymize", "data.jsonl", "out.jsonl", "--home", "a", "--key", "b"), 2, "one of --home and --key"),
        (("anonymize", "none.jsonl", "out.jsonl"), 1, "none.jsonl: no such file"),
        (("forget",), 2, "name what to forget"),
        (("forget", "--where", "person"), 2, "FIELD=VALUE"),
        (("forget", "--list", "--id", "1"), 2, "--list adds nothing"),
        (("forget", "--id", "1", "--home", "none"), 2, "none/site.yaml: no such file"),
    ],
)
def test_a_slip_is_one_line_and_a_true_exit_code(
    site: Site, arguments: tuple[str, ...], code: int, reason: str
) -> None:
    before = site.data.read_bytes()
    ended, out, err = site.run(*arguments)
    assert (ended, out, err.count("\n")) == (code, "", 1)
    assert reason in err
    assert site.data.read_bytes() == before
    assert not (site.folder / "out.jsonl").exists()


def test_what_is_forgotten_is_counted_at_home_and_the_data_file_stays(site: Site) -> None:
    before = site.data.read_bytes()
    told = site.told("forget", "--where", "person=anna", "--id", "2", "--id", "9")
    assert [(entry["field"], entry["records"], entry["new"]) for entry in told["entries"]] == [
        ("id", 1, True),
        ("id", 0, True),
        ("person", 2, True),
    ]
    assert (told["records"], told["left_out"], told["added"]) == (3, 3, 3)
    assert "anna" not in json.dumps(told["entries"])
    assert site.data.read_bytes() == before
    assert Forgotten.load(site.home).keep(read_records(site.data)) == []
    again = site.told("forget", "--id", "2")
    assert (again["added"], len(again["entries"])) == (0, 3)
    _, shown, _ = site.run("forget", "--list")
    assert shown.count("records\n") == 3
    assert "3 of 3 records are left out" in shown


def test_an_entry_that_matches_nothing_stands_and_is_questioned(site: Site) -> None:
    code, out, err = site.run("forget", "--where", "persn=anna")
    assert (code, err) == (0, "")
    assert "matches the new entry for persn: a slip?" in out
    assert "is unchanged, and so are models" in out


def test_a_withdrawal_is_journaled_while_the_data_are_away(site: Site) -> None:
    site.data.unlink()
    told = site.told("forget", "--id", "1")
    assert (told["added"], told["left_out"], told["entries"][0]["records"]) == (1, None, None)


def test_damaged_withdrawals_are_one_line_that_says_that_nothing_is_trained(site: Site) -> None:
    site.told("forget", "--id", "1")
    with closing(sqlite3.connect(site.home / "forgotten.db")) as table, table:
        table.execute("UPDATE withdrawal SET field = 'xd'")
    for arguments in (("forget", "--list"), ("forget", "--id", "2")):
        code, out, err = site.run(*arguments)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "row 0 was edited" in err
        assert "nothing is trained" in err


@pytest.mark.parametrize("verb", ["anonymize", "forget"])
def test_the_help_says_what_it_cannot_do(site: Site, verb: str) -> None:
    said = " ".join(site.run(verb, "--help")[1].replace("│", " ").split())
    expected = {
        "anonymize": "This is no differential privacy and no guarantee",
        "forget": "models already trained keep what they learned",
    }
    assert expected[verb] in said

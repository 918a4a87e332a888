"""Sites' records under the home: whoever withdrew from them does not live on in an archive."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from fedllm.backup.create import create_backup
from fedllm.backup.restore import restore
from fedllm.data.forget import Forgotten, forget
from fedllm.data.forgotten_file import FILE
from tests.backup.private_site import lose, site

WITHDRAWN = b'{"text": "a patient who withdrew", "label": "positive"}\n'


def say(home: Path, **said: str) -> None:
    """Change a site's file."""
    told = yaml.safe_load((home / "site.yaml").read_text())
    (home / "site.yaml").write_text(yaml.safe_dump(told | said))


@pytest.mark.parametrize("data", ["records.jsonl", "../../records.jsonl"])
@pytest.mark.parametrize("wrong", [{}, {"nmae": "mill"}])
@pytest.mark.parametrize("keys", [True, False])
def test_the_records_that_a_site_trains_on_are_left_out_and_named(  # noqa: PLR0913 - pytest's
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    data: str,
    wrong: dict[str, str],
    *,
    keys: bool,
) -> None:
    mill = home / "sites" / "mill"
    site(mill)
    say(mill, data=data, **wrong)
    (mill / data).write_bytes(WITHDRAWN)
    (mill / "notes.txt").write_text("kept")
    said: list[str] = []
    create_backup(tmp_path / "b.tar", keys=keys, progress=said.append)
    assert WITHDRAWN not in (tmp_path / "b.tar").read_bytes()
    assert [line for line in said if line.startswith(f"not in it: the records of sites/mill, {home}")]
    new = lose(tmp_path, monkeypatch)
    restore(tmp_path / "b.tar", nothing_spent=True)
    assert not (new / "sites" / "mill" / data).exists()
    assert (new / "sites" / "mill" / "notes.txt").read_text() == "kept"


@pytest.mark.parametrize("data", ["ledger.db", "memory.db"])
def test_a_site_file_that_names_a_database_as_its_records_costs_no_ledger(
    home: Path, tmp_path: Path, data: str
) -> None:
    site(home / "sites" / "mill")
    say(home / "sites" / "mill", data=data)
    assert {f"home/sites/mill/{name}" for name in ("ledger.db", "memory.db")} <= {
        member.name for member in create_backup(tmp_path / "b.tar").members
    }


def test_withdrawals_come_back_as_they_were_also_those_that_are_only_in_sqlites_log(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mill = home / "sites" / "mill"
    site(mill)
    forget(mill, [("id", "1")])
    with closing(sqlite3.connect(mill / FILE)) as reader:
        reader.execute("SELECT * FROM withdrawal").fetchall()
        forget(mill, [("id", "2")])
        create_backup(tmp_path / "b.tar")
    new = lose(tmp_path, monkeypatch)
    restore(tmp_path / "b.tar", nothing_spent=True)
    assert Forgotten.load(new / "sites" / "mill").keep([{"id": "1"}, {"id": "2"}, {"id": "3"}]) == [
        {"id": "3"}
    ]

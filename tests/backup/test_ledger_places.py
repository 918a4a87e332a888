"""Ledgers and sites where no archive would hold them: refused or named, never left out in silence."""

from pathlib import Path

import pytest

from fedllm.backup import create
from fedllm.backup.create import create_backup
from fedllm.backup.reading import verify
from fedllm.backup.restore import restore
from fedllm.errors import BackupError
from tests.backup.private_site import lose, site

UNKEPT = [
    ".ledger.db",
    "../../.private/ward.db",
    "ward-journal",
    "ward.log",
    "../../cache/ward.db",
    "../../stack/logs/ward.db",
]


@pytest.mark.parametrize("ledger", UNKEPT)
@pytest.mark.parametrize("begun", [True, False])
def test_a_ledger_that_no_archive_would_hold_is_refused_also_before_it_is_begun(
    home: Path, tmp_path: Path, ledger: str, *, begun: bool
) -> None:
    before = site(home / "sites" / "mill", ledger)
    if not begun:
        before.ledger.unlink()
    with pytest.raises(BackupError, match=r"sites/mill names .* as its privacy ledger") as caught:
        create_backup(tmp_path / "b.tar")
    assert str(before.ledger) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_ledger_among_private_keys_is_refused_where_they_are_left_out(home: Path, tmp_path: Path) -> None:
    site(home / "sites" / "mill", "keys/ward.db")
    with pytest.raises(BackupError, match="as its privacy ledger"):
        create_backup(tmp_path / "without.tar", keys=False)
    assert create_backup(tmp_path / "with.tar").ledgers[0].home == "sites/mill/keys"


@pytest.mark.parametrize("ledger", UNKEPT)
def test_an_archive_that_lacks_a_sites_ledger_is_not_restored(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger: str
) -> None:
    site(home / "sites" / "mill", ledger)
    with monkeypatch.context() as older:  # a fedllm that took such a home for whole
        older.setattr(create, "refuse_unkept_ledgers", lambda *_, **__: None)
        assert create_backup(tmp_path / "b.tar").ledgers == ()
    new = lose(tmp_path, monkeypatch)
    for said in (False, True):
        with pytest.raises(BackupError, match=r"sites/mill keeps its privacy ledger at .* no archive holds"):
            restore(tmp_path / "b.tar", nothing_spent=said)
    assert list(new.iterdir()) == []


def test_a_site_in_a_hidden_folder_is_named_and_another_backups_copies_are_not(
    home: Path, tmp_path: Path
) -> None:
    for folder in (".private/mill", "sites/.old", "sites/farm", ".backup-1/home/sites/mill"):
        site(home / folder)
    said: list[str] = []
    create_backup(tmp_path / "b.tar", progress=said.append)
    hidden = [line for line in said if line.startswith("not in it: the site in ")]
    assert [line.split(",")[0].rpartition(" ")[2] for line in hidden] == [
        str(home / ".private" / "mill"),
        str(home / "sites" / ".old"),
    ]
    names = {member.name for member in verify(tmp_path / "b.tar").members}
    assert {name.split("/")[2] for name in names if name.startswith("home/sites/")} == {"farm"}

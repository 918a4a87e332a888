"""What a restored ledger counts as spent: once more after a second restore, and under several sites' keys."""

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from fedllm.backup.create import create_backup
from fedllm.backup.ledgers import Retired
from fedllm.backup.restore import restore
from fedllm.errors import BackupError
from fedllm.privacy.ledger import Ledger
from fedllm.secure.identity import load_identity
from tests.backup.private_site import lose, site


@pytest.mark.parametrize("spent", [10, 20])
def test_a_run_that_reserved_anew_after_a_restore_is_counted_as_spent_by_the_next_one_too(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spent: int
) -> None:
    before = site(home / "sites" / "mill")
    create_backup(tmp_path / "b.tar")
    first = before.moved(home, lose(tmp_path, monkeypatch, "first"))
    restore(tmp_path / "b.tar")
    first.promise("run-2")  # settles run-1
    first.promise("run-1")  # --resume
    first.spend(2, spent)
    create_backup(tmp_path / "c.tar")
    second = before.moved(home, lose(tmp_path, monkeypatch, "second"))
    assert restore(tmp_path / "c.tar").retired == (Retired("ward-7", "run-1", 100 - spent),)
    with closing(Ledger(second.ledger, load_identity(second.home / "keys"))) as ledger:
        assert ledger.verify()["ward-7"].seq > 0
        newest = list(ledger.state("ward-7").reservations.values())[-1]
        assert (newest.charged, newest.most) == (100, 100)


def test_a_ledger_of_two_data_sets_under_two_sites_keys_is_closed_by_both(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = "../../books/ward.sqlite"
    both = [site(home / "sites" / "mill", shared), site(home / "sites" / "farm", shared, "ward-8")]
    create_backup(tmp_path / "b.tar")
    shutil.rmtree(home / "sites" / "farm" / "keys")
    create_backup(tmp_path / "c.tar")
    new = lose(tmp_path, monkeypatch)
    with pytest.raises(BackupError, match="an open training on ward-8"):
        restore(tmp_path / "c.tar")
    assert list(new.iterdir()) == []
    retired = restore(tmp_path / "b.tar").retired
    assert retired == (Retired("ward-7", "run-1", 90), Retired("ward-8", "run-1", 90))
    assert [one.moved(home, new).left() for one in both] == [0, 0]

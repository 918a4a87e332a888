"""Sites that live under a restored home: their numbers rise, and their open trainings are spent."""

import time
from contextlib import closing
from pathlib import Path

import pytest

from fedllm.agent.memory import Memory
from fedllm.backup.counters import CARDS, ORIGIN
from fedllm.backup.create import create_backup
from fedllm.backup.ledgers import Retired
from fedllm.backup.reading import verify
from fedllm.backup.restore import restore
from fedllm.cli import backup as verbs
from fedllm.errors import BackupError, BudgetError
from fedllm.privacy.ledger import Ledger
from fedllm.protocol.messages import Sealed
from fedllm.secure.identity import load_identity
from tests.backup.private_site import lose, site

SEALED = Sealed(key="k", sealed_sha256="0" * 64, sealed_bytes=1, sha256="0" * 64, bytes=1)


@pytest.mark.parametrize("where", ["sites/mill", "simulated/fed/mill", "hospital", "clinics/north/mill"])
def test_a_site_anywhere_in_the_home_spends_nothing_twice_after_a_restore(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    before = site(home / where)
    manifest = create_backup(tmp_path / "b.tar")
    assert [(mark.home, mark.dataset, mark.seq) for mark in manifest.ledgers] == [(where, "ward-7", 2)]
    before.spend(2, 30)  # after the backup: no restored file tells of it
    lose(tmp_path, monkeypatch)
    done = restore(tmp_path / "b.tar").retired
    after = before.moved(home, tmp_path / "new")
    assert done == (Retired("ward-7", "run-1", 90),)
    assert after.card() >= CARDS * int(manifest.taken - ORIGIN)
    assert after.left() == 0
    with pytest.raises(BudgetError, match="are spent"):
        after.spend(2, 30)


def test_a_ledger_that_lies_outside_its_sites_folder_and_has_another_name_is_closed_as_well(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = site(home / "sites" / "mill", "../../books/ward.sqlite")
    create_backup(tmp_path / "b.tar")
    new = lose(tmp_path, monkeypatch)
    assert restore(tmp_path / "b.tar").retired == (Retired("ward-7", "run-1", 90),)
    assert before.moved(home, new).left() == 0


def test_a_ledger_outside_the_home_is_told_of_at_the_backup_and_must_be_there_at_the_restore(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = site(home / "sites" / "mill", str(tmp_path / "mirror" / "ledger.db"))
    said: list[str] = []
    create_backup(tmp_path / "b.tar", progress=said.append)
    assert [line for line in said if line.startswith("not in it") and str(before.ledger) in line]
    before.ledger.rename(tmp_path / "kept")
    new = lose(tmp_path, monkeypatch)
    with pytest.raises(BackupError, match=r"sites/mill keeps its privacy ledger at .*no file is there"):
        restore(tmp_path / "b.tar")
    assert list(new.iterdir()) == []
    (tmp_path / "kept").rename(before.ledger)
    assert restore(tmp_path / "b.tar").retired == ()  # it is the newest there is
    with closing(Ledger(before.ledger, load_identity(new / "sites" / "mill" / "keys"))) as ledger:
        assert ledger.verify()["ward-7"].seq == 2


def test_without_keys_an_open_training_keeps_a_ledger_from_being_restored(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = site(home / "sites" / "mill")
    create_backup(tmp_path / "b.tar", keys=False)
    new = lose(tmp_path, monkeypatch)
    with pytest.raises(BackupError, match="--nothing-spent") as caught:
        restore(tmp_path / "b.tar")
    assert "\n" not in str(caught.value)
    assert list(new.iterdir()) == []
    assert restore(tmp_path / "b.tar", nothing_spent=True).retired == ()
    (tmp_path / "gone" / "sites" / "mill" / "keys").rename(new / "sites" / "mill" / "keys")
    assert before.moved(home, new).left() == 90


def test_without_keys_a_ledger_whose_trainings_are_over_comes_back(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = site(home / "sites" / "mill")
    before.spend(2, 90)
    create_backup(tmp_path / "b.tar", keys=False)
    new = lose(tmp_path, monkeypatch)
    assert restore(tmp_path / "b.tar").retired == ()
    assert (new / "sites" / "mill" / "ledger.db").exists()


def test_the_owners_word_that_nothing_was_spent_leaves_a_ledger_where_it_was(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = site(home / "sites" / "mill")
    create_backup(tmp_path / "b.tar")
    new = lose(tmp_path, monkeypatch)
    assert restore(tmp_path / "b.tar", nothing_spent=True).retired == ()
    after = before.moved(home, new)
    assert after.left() == 90
    after.spend(2, 90)


def test_the_same_archive_restored_twice_never_shows_a_card_under_one_number(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = site(home / "sites" / "mill")
    create_backup(tmp_path / "b.tar")
    cards = []
    for new, later in (("monday", 0.0), ("tuesday", 86_400.0)):
        lose(tmp_path, monkeypatch, new)
        now = time.time() + later
        with pytest.MonkeyPatch.context() as clock:
            clock.setattr("fedllm.backup.counters.time.time", lambda now=now: now)
            restore(tmp_path / "b.tar")
        cards.append(before.moved(home, tmp_path / new).card())
    assert cards[1] >= cards[0] + 10 * 86_000  # whatever Monday's agent showed until Tuesday


def test_an_update_that_was_sent_while_the_backup_read_the_files_is_not_owed_any_more(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = site(home / "sites" / "mill")
    (before.home / "work").mkdir()
    with closing(Memory(before.home / "memory.db")) as memory:
        for number, payload in ((1, SEALED.model_dump_json()), (2, SEALED.model_dump_json()), (3, None)):
            memory.reserve("run-1", number, "0" * 64, b"", declined=False)
            memory.commit("run-1", number, b"", payload)
    (before.home / "work" / "run-1-2.sealed").write_bytes(b"x")
    create_backup(tmp_path / "b.tar")
    new = lose(tmp_path, monkeypatch)
    restore(tmp_path / "b.tar")
    with closing(Memory(new / "sites" / "mill" / "memory.db")) as memory:
        assert [work.round for work in memory.committed()] == [2, 3]


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("ledger", ["ledger.db", "../../../mirror/ledger.db"])
def test_a_round_that_was_charged_and_not_sent_in_the_backup_is_given_up(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger: str, *, said: bool
) -> None:
    before = site(home / "sites" / "mill", ledger)
    with closing(Memory(before.home / "memory.db")) as memory:
        for number in (1, 2):
            memory.reserve("run-1", number, "0" * 64, b"", declined=False)
    create_backup(tmp_path / "b.tar")
    new = lose(tmp_path, monkeypatch)
    assert restore(tmp_path / "b.tar", nothing_spent=said).given_up == (("sites/mill", "run-1", 1),)
    with closing(Memory(new / "sites" / "mill" / "memory.db")) as memory:
        works = [memory.work("run-1", number) for number in (1, 2)]
        assert memory.tally().failed == 1
    # Round 2 is not charged: what it trains is paid for then, or cannot begin.
    assert [(work.state, work.update) for work in works if work] == [("released", None), ("reserved", None)]


def test_the_last_round_is_given_up_without_keys_as_well(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = site(home / "sites" / "mill")
    before.spend(2, 90)
    with closing(Memory(before.home / "memory.db")) as memory:
        memory.reserve("run-1", 2, "0" * 64, b"", declined=False)
    create_backup(tmp_path / "b.tar", keys=False)
    lose(tmp_path, monkeypatch)
    done = restore(tmp_path / "b.tar")
    assert (done.retired, done.given_up) == ((), (("sites/mill", "run-1", 2),))


@pytest.mark.parametrize("ledger", ["ledger.db", "../../books/ward.sqlite"])
def test_a_site_whose_site_file_cannot_be_read_is_named_and_comes_back_with_its_ledger_closed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger: str
) -> None:
    before = site(home / "sites" / "mill", ledger)
    site(home / "sites" / "farm")
    with closing(Memory(before.home / "memory.db")) as memory:
        memory.reserve("run-2", 7, "0" * 64, b"", declined=False)  # perhaps charged in a ledger elsewhere
    file = before.home / "site.yaml"
    file.write_text(file.read_text() + "nmae: mill\n")
    said: list[str] = []
    create_backup(tmp_path / "b.tar", progress=said.append)
    assert [line for line in said if line.startswith("no agent can start in sites/mill") and "nmae" in line]
    new = lose(tmp_path, monkeypatch)
    done = restore(tmp_path / "b.tar")
    assert (done.unread, done.given_up) == (("sites/mill",), (("sites/mill", "run-2", 7),))
    told = "\n".join(verbs._next_steps(done, None))
    assert "\nsites/mill/site.yaml cannot be read" in told
    assert "\nsites/mill gives up round 7 of run-2" in told
    assert done.retired == (Retired("ward-7", "run-1", 90),) * 2
    assert before.moved(home, new).left() == 0


def test_a_ledger_named_in_full_inside_the_home_is_restored_into_that_home_alone(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = site(home / "sites" / "mill", str(home / "books" / "ward.db"))
    said: list[str] = []
    create_backup(tmp_path / "b.tar", progress=said.append)
    assert [line for line in said if line.startswith(f"restore it into {home} only: sites/mill")]
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "rehearsal"))  # the home it came from is there as well
    with pytest.raises(BackupError, match=f"sites/mill names its .* absolute path, .* restore into {home} "):
        restore(tmp_path / "b.tar")
    assert list((tmp_path / "rehearsal").iterdir()) == []
    lose(tmp_path, monkeypatch, "home")
    assert restore(tmp_path / "b.tar").retired == (Retired("ward-7", "run-1", 90),)
    assert before.left() == 0


def test_what_a_site_or_the_coordinator_has_opened_is_not_in_an_archive_without_keys(
    home: Path, tmp_path: Path
) -> None:
    site(home / "sites" / "mill")
    opened = {
        "sites/mill/work/run-1-1.update": b"the site's own update",
        "sites/mill/work/run-1-1.model": b"the global model",
        "sites/mill/work/run-1-1.sealed": b"sealed",
        f"coordinator/fed/runs/run-1/{'a' * 64}.update": b"an opened update",
    }
    for name, body in opened.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(body)
    for keys, expected in ((False, {"sealed"}), (True, {"sealed", "an opened update"})):
        create_backup(tmp_path / f"{keys}.tar", keys=keys)
        whole = (tmp_path / f"{keys}.tar").read_bytes()
        assert {body.decode() for body in opened.values() if body in whole} == expected
        assert verify(tmp_path / f"{keys}.tar").keys is keys

"""A ledger that was torn, edited, forked or rolled back is found out, and nothing is charged on it."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import event

from fedllm.errors import DiskFullError, LedgerError
from fedllm.privacy.chain import ChainHead
from fedllm.privacy.ledger import Ledger
from fedllm.protocol.entry import signed
from tests.privacy.ledger_home import DATA, charge, ledger_at, reserve, tamper, trained, who

ENVELOPE = b"a signed plan"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger of a training of three rounds: open, reserve, three charges. Nobody has it open."""
    with closing(ledger_at(tmp_path / "ledger.db")) as ledger:
        trained(ledger)
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with closing(ledger_at(path)) as ledger:
        yield ledger


def refused(path: Path, match: str) -> None:
    """Every use says why, as an error and not as a crash; the file stays as it was."""
    before = path.read_bytes()
    with closing(ledger_at(path)) as ledger:
        for use in (
            lambda: charge(ledger, 4),
            lambda: charge(ledger, 3),
            lambda: reserve(ledger, "run-2"),
            lambda: ledger.head(DATA),
            ledger.verify,
        ):
            with pytest.raises(LedgerError, match=match):
                use()
    assert path.read_bytes() == before


def say(path: Path, seq: int, **said: object) -> None:
    """Change what an entry in the file says."""
    with closing(ledger_at(path)) as ledger:
        entry = ledger.entries(DATA, seq - 1, show=None)[0]
    text = json.dumps(json.loads(entry.model_dump_json()) | said)
    assert tamper(path, "UPDATE entry SET entry = ? WHERE seq = ?", text, seq) == 1


@pytest.mark.parametrize("seq", [2, 4])
def test_an_edited_body_is_refused(path: Path, seq: int) -> None:
    say(path, seq, steps=1)
    refused(path, f"entry {seq} was edited")


def test_an_edited_context_is_refused(path: Path) -> None:
    """Else a charged round could be charged, and its noise drawn, again under another name."""
    text = "UPDATE entry SET entry = replace(entry, 'run-1', 'run-7') WHERE seq = 3"
    assert tamper(path, text) == 1
    refused(path, "entry 3 was edited: .*context is not the one that was signed")


def test_a_context_taken_away_is_refused(path: Path) -> None:
    say(path, 3, context=None)
    refused(path, "entry 3 was edited: its context was taken away")


def test_an_edited_signature_is_refused(path: Path) -> None:
    say(path, 4, signature="0" * 128)
    refused(path, "entry 4 was edited")


def test_a_row_that_is_no_entry_is_refused(path: Path) -> None:
    tamper(path, "UPDATE entry SET entry = '{}' WHERE seq = 2")
    refused(path, "entry 2 was edited")
    tamper(path, "UPDATE entry SET entry = x'ff' WHERE seq = 2")
    refused(path, "entry 2 was edited")


def test_a_removed_entry_is_refused(path: Path) -> None:
    tamper(path, "DELETE FROM entry WHERE seq = 3")
    refused(path, "entry 4 stands where entry 3 is due")


def test_swapped_entries_are_refused(path: Path) -> None:
    for old, new in ((3, 99), (4, 3), (99, 4)):
        assert tamper(path, "UPDATE entry SET seq = ? WHERE seq = ?", new, old) == 1
    refused(path, "entry 3 was edited: it holds entry 4")


def test_another_data_sets_chain_cannot_stand_in(path: Path) -> None:
    tamper(path, "UPDATE entry SET dataset = 'ward-8'")
    with closing(ledger_at(path)) as ledger, pytest.raises(LedgerError, match="entry 0 was edited"):
        ledger.verify()


def test_a_chain_by_another_key_is_refused(tmp_path: Path) -> None:
    with closing(ledger_at(tmp_path / "theirs.db", who("movies"))) as theirs:
        trained(theirs)
    unknown = pytest.raises(LedgerError, match="does not know this site's key")
    with closing(ledger_at(tmp_path / "theirs.db")) as ledger, unknown:
        charge(ledger, 4)


def test_entries_signed_by_whoever_found_the_file_are_refused(path: Path) -> None:
    """Somebody without the key goes on from an older state with a key of their own."""
    stranger = who("movies")
    tamper(path, "DELETE FROM entry WHERE seq >= 3")
    with closing(ledger_at(path)) as ledger:
        last = ledger.entries(DATA, show=None)[-1]
    forged = signed(
        stranger.signing, seq=3, previous=last.sha256, dataset=DATA, kind="rekey", key=stranger.public.verify
    )
    row = (DATA, 3, forged.model_dump_json(), 0.0)
    tamper(path, "INSERT INTO entry (dataset, seq, entry, at) VALUES (?, ?, ?, ?)", *row)
    refused(path, "entry 3 is signed by .*a key that the chain does not know")


def test_one_data_sets_damage_does_not_stop_another(path: Path) -> None:
    with closing(ledger_at(path)) as ledger:
        trained(ledger, dataset="ward-8")
    tamper(path, "DELETE FROM entry WHERE seq = 3 AND dataset = 'ward-7'")
    with closing(ledger_at(path)) as ledger:
        assert charge(ledger, 4, dataset="ward-8").steps == 10
        with pytest.raises(LedgerError, match="ward-7"):
            charge(ledger, 4)
        with pytest.raises(LedgerError, match="ward-7"):
            ledger.verify()


def test_an_edit_under_a_running_agent_is_refused(ledger: Ledger, path: Path) -> None:
    charge(ledger, 4)
    tamper(path, "UPDATE entry SET entry = replace(entry, '\"steps\":10', '\"steps\":9') WHERE seq = 5")
    with pytest.raises(LedgerError, match="entry 5 was edited"):
        charge(ledger, 5)
    with pytest.raises(LedgerError, match="entry 5 was edited"):
        charge(ledger, 5)


def test_a_tail_cut_off_under_a_running_agent_is_refused_for_good(ledger: Ledger, path: Path) -> None:
    charge(ledger, 4)
    tamper(path, "DELETE FROM entry WHERE seq = 5")
    with pytest.raises(LedgerError, match="entry 5 was edited or removed"):
        charge(ledger, 5)
    with pytest.raises(LedgerError, match=r"entry 5, which this program has seen, is gone"):
        charge(ledger, 5)


def test_a_tail_cut_off_behind_an_acknowledged_head_is_refused(path: Path) -> None:
    with closing(ledger_at(path)) as ledger:
        head = ledger.head(DATA)
        assert head is not None
        ledger.acknowledge(DATA, head, ENVELOPE, federation="fed")
    tamper(path, "DELETE FROM entry WHERE seq = 4")
    refused(path, "entry 4, which fed has seen, is gone")


def test_all_entries_gone_behind_an_acknowledged_head_is_refused(path: Path) -> None:
    with closing(ledger_at(path)) as ledger:
        head = ledger.head(DATA)
        assert head is not None
        ledger.acknowledge(DATA, head, ENVELOPE, federation="fed")
    tamper(path, "DELETE FROM entry")
    refused(path, "entry 4, which fed has seen, is gone")


def test_the_highest_acknowledged_head_stands(path: Path, ledger: Ledger) -> None:
    heads = [entry.head for entry in ledger.entries(DATA, show=None)]
    ledger.acknowledge(DATA, heads[4], ENVELOPE, federation="fed")
    ledger.acknowledge(DATA, heads[2], b"an older plan", federation="fed")
    ledger.acknowledge(DATA, heads[1], b"another's plan", federation="other")
    tamper(path, "DELETE FROM entry WHERE seq = 4")
    refused(path, "entry 4, which fed has seen, is gone")


def rolled_back(path: Path, during: Callable[[Ledger], None]) -> ChainHead:
    """Put a copy of the file in place that is older than what `during` does; the newest head then."""
    copy = path.with_suffix(".old")
    shutil.copyfile(path, copy)
    with closing(ledger_at(path)) as ledger:
        during(ledger)
        head = ledger.head(DATA)
    assert head is not None
    for file in path.parent.glob("ledger.db*"):
        file.unlink()
    shutil.copyfile(copy, path)
    return head


def test_an_older_copy_of_the_file_is_found_by_what_the_coordinator_has_seen(path: Path) -> None:
    head = rolled_back(path, lambda ledger: charge(ledger, 4))
    with closing(ledger_at(path)) as ledger:
        assert ledger.verify()[DATA].seq == 4  # by itself it is a good ledger
        with pytest.raises(LedgerError, match=r"has seen entry 5.*an older copy or a new file"):
            ledger.acknowledge(DATA, head, ENVELOPE, federation="fed")


def test_an_older_copy_that_went_on_is_found_as_a_fork(path: Path) -> None:
    head = rolled_back(path, lambda ledger: charge(ledger, 4))
    with closing(ledger_at(path)) as ledger:
        charge(ledger, 4)
        charge(ledger, 5)
        with pytest.raises(LedgerError, match="entry 5 is not what the coordinator of fed has seen"):
            ledger.acknowledge(DATA, head, ENVELOPE, federation="fed")


def test_an_older_copy_under_a_running_agent_is_found_at_once(ledger: Ledger, path: Path) -> None:
    charge(ledger, 4)
    tamper(path, "DELETE FROM entry WHERE seq >= 4")
    with closing(ledger_at(path)) as other:
        charge(other, 3)
        charge(other, 4)
    with pytest.raises(LedgerError, match="entry 5 was edited or removed"):
        charge(ledger, 5)


def test_a_lost_ledger_is_found_by_what_the_coordinator_has_seen(path: Path) -> None:
    with closing(ledger_at(path)) as ledger:
        head = ledger.head(DATA)
    assert head is not None
    for file in path.parent.glob("ledger.db*"):
        file.unlink()
    with closing(ledger_at(path)) as ledger, pytest.raises(LedgerError, match="has seen entry 4"):
        ledger.acknowledge(DATA, head, ENVELOPE, federation="fed")


def long(path: Path) -> None:
    with closing(ledger_at(path)) as ledger:
        for number in range(4, 11):
            charge(ledger, number)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_a_truncated_file_is_refused_with_its_reason(path: Path, share: float) -> None:
    long(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(LedgerError, match=r"ledger\.db is torn|ward-7"), closing(ledger_at(path)) as ledger:
        charge(ledger, 11)


@pytest.mark.parametrize("page", range(1, 7))
def test_a_corrupt_page_is_refused_with_its_reason(path: Path, page: int) -> None:
    """Whichever page of the file was overwritten: no crash, and no charge."""
    long(path)
    data = bytearray(path.read_bytes())
    size = 4096
    assert len(data) >= (page + 1) * size
    data[page * size : (page + 1) * size] = b"\xa5" * size
    path.write_bytes(data)
    with pytest.raises(LedgerError), closing(ledger_at(path)) as ledger:
        charge(ledger, 11)
    assert path.read_bytes() == bytes(data)


def test_what_is_no_database_is_refused_and_kept(path: Path) -> None:
    path.write_bytes(b"{}" * 4096)
    with pytest.raises(LedgerError, match=r"ledger\.db is torn or cannot be read"):
        ledger_at(path)
    assert path.read_bytes() == b"{}" * 4096


def test_a_file_that_the_site_cannot_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot be read"):
        ledger_at(tmp_path / "nowhere" / "ledger.db")


def charged_from(ledger: Ledger, number: int) -> Iterator[int]:
    """The newest seq after each charge of one step, round after round."""
    while True:
        yield charge(ledger, number, steps=1).seq
        number += 1


def test_a_full_disk_refuses_the_charge_and_loses_none(path: Path) -> None:
    told = []
    with closing(ledger_at(path)) as ledger:
        engine = ledger._chains._file._engine
        engine.dispose()
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count=10"))
        with pytest.raises(DiskFullError, match="is full: make space"):
            told.extend(charged_from(ledger, 4))
    assert told
    with closing(ledger_at(path)) as again:
        assert again.verify()[DATA].seq == told[-1]
        assert charge(again, 4, steps=1).seq == 5  # the first of them
        assert charge(again, 99, steps=1).seq == told[-1] + 1

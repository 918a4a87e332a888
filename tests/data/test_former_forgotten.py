"""Withdrawals in the former format are taken over once, as a whole or not at all."""

from pathlib import Path

import pytest

from fedllm.data import forget as withdrawal
from fedllm.data.forget import Forgotten, forget
from fedllm.data.forgotten_file import FILE, KEY
from fedllm.data.former_forgotten import HEAD, JOURNAL
from fedllm.errors import DataError, DiskFullError

# As fedllm 0.2 of 30 November 2026 wrote it for `person=anna`, and then `id=2` with `person=José`.
FORMER_KEY = b"160ca61587e74ba4223b2331e6caaf0c6bf2ea70cb84ef553c716d5f3c8b10de\n"
FORMER = (
    b'{"at":"2026-11-30T21:41:08+00:00","field":"person",'
    b'"mac":"d1516f2d32813c2ac139906dba52d3afdf78e7c9d284a3292e96a6c34a992ca6",'
    b'"previous":"0000000000000000000000000000000000000000000000000000000000000000","seq":0,'
    b'"value":"22a57601919b245e975916e7cdea235b32951191e1035e874c234e760ba03e08"}\n'
    b'{"at":"2026-11-30T21:41:08+00:00","field":"id",'
    b'"mac":"8d0e618934722615f5ad69d6172d6d7fee7f27696289bfe41b08bd46694b9b0c",'
    b'"previous":"5aef3ebdeade0797582a2d82d30e71d8b65ac08fee311229f03b0b66bacf179f","seq":1,'
    b'"value":"e974252de702434ce1a9829cbcac09f0eff9a6d6370675bcc66a09d25d2f8d21"}\n'
    b'{"at":"2026-11-30T21:41:08+00:00","field":"person",'
    b'"mac":"b1e282a489b420b5a866753c6e8dee5f0b6b47dd9ac366104c6646334ff2d00b",'
    b'"previous":"5d4149623e89e4e5bd4eccea562e71baf9dd65a6921ba957dec1540adf2bb647","seq":2,'
    b'"value":"1e18152f835bbae60bdd5dec8d4ce8aaa3a92868de3ae624c18b050d0f9bda2d"}\n'
)
FORMER_HEAD = b'{"seq":2,"sha256":"f353c901e22b3592946a8d70857bd753089fe0af0f4ecaa0f79d97a5f4fb68ec"}\n'
LINES = FORMER.splitlines(keepends=True)
RECORDS = [{"person": "anna"}, {"id": "2"}, {"person": "José"}, {"person": "bjorn"}]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name, data in ((JOURNAL, FORMER), (HEAD, FORMER_HEAD), (KEY, FORMER_KEY)):
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o600)
    return tmp_path


def names(home: Path) -> set[str]:
    return {file.name for file in home.iterdir()} - {"forgotten.lock"}


def refused(home: Path, reason: str) -> None:
    """Neither reading nor adding goes on, nothing is taken over, and the former files stay as they are."""
    before = {file: (home / file).read_bytes() for file in names(home)}
    for act in (lambda: Forgotten.load(home), lambda: forget(home, [("id", "9")])):
        with pytest.raises(DataError, match=reason) as caught:
            act()
        assert "\n" not in str(caught.value)
    assert {file: (home / file).read_bytes() for file in names(home)} == before


@pytest.mark.parametrize("first", ["reads", "adds"])
def test_whoever_comes_first_takes_every_entry_over_with_its_number_and_time(home: Path, first: str) -> None:
    if first == "reads":
        Forgotten.load(home)
    else:
        forget(home, [("id", "2")])  # which is among them
    assert names(home) == {FILE, KEY}
    now = Forgotten.load(home)
    assert [(entry.seq, entry.at, entry.field) for entry in now.entries] == [
        (0, "2026-11-30T21:41:08+00:00", "person"),
        (1, "2026-11-30T21:41:08+00:00", "id"),
        (2, "2026-11-30T21:41:08+00:00", "person"),
    ]
    assert now.keep(RECORDS) == [{"person": "bjorn"}]
    assert [entry.seq for entry in forget(home, [("person", "anna"), ("id", "9")])[1]] == [3]


@pytest.mark.parametrize(
    ("journal", "reason"),
    [
        (FORMER[:-5], "line 3 is torn: nothing is trained until it is restored"),
        (FORMER + LINES[0][:40], "line 4 is torn: nothing is trained until you remove that line"),
        (FORMER.replace(b"person", b"persom", 1), "line 1 was edited"),
        (b"".join(LINES[1:]), "line 1 was edited"),
        (b"".join(LINES[:1]), "lost its end, line 3"),
        (b"", "lost its end, line 3"),
        (b"".join([LINES[0], LINES[0], LINES[2]]), "line 2 was edited"),
        (FORMER + b"[1]\n", "line 4 was edited"),
        (FORMER + b'{"mac":"\xff"}\n', "line 4 was edited"),
    ],
)
def test_a_damaged_journal_is_refused_as_before_and_not_taken_over(
    home: Path, journal: bytes, reason: str
) -> None:
    (home / JOURNAL).write_bytes(journal)
    refused(home, reason)


@pytest.mark.parametrize("head", [b"", b"[]", b'{"seq": "x", "sha256": ""}', b'{"seq": 1, "sha256": "0"}'])
def test_a_damaged_head_is_refused(home: Path, head: bytes) -> None:
    (home / HEAD).write_bytes(head)
    refused(home, "forgotten.head is damaged|is not what forgotten.head names")


@pytest.mark.parametrize(
    ("gone", "reason"),
    [
        ([KEY], "forgotten.key is missing"),
        ([JOURNAL], "forgotten.jsonl is missing"),
        ([JOURNAL, HEAD], "forgotten.db is missing"),
    ],
)
def test_a_former_file_that_is_gone_is_refused(home: Path, gone: list[str], reason: str) -> None:
    for name in gone:
        (home / name).unlink()
    refused(home, reason)


def test_lines_that_were_written_just_before_a_crash_count(home: Path) -> None:
    (home / HEAD).unlink()  # it was to be written next
    assert len(Forgotten.load(home).entries) == 3


def test_a_crash_before_the_former_files_are_removed_repeats_the_takeover(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(_home: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(withdrawal, "remove_former", crash)
        with pytest.raises(KeyboardInterrupt):
            Forgotten.load(home)
    assert names(home) == {FILE, KEY, JOURNAL, HEAD}
    (home / HEAD).unlink()  # or between the two
    assert len(Forgotten.load(home).entries) == 3
    assert names(home) == {FILE, KEY}


def test_without_room_for_the_table_the_former_files_stay(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("fedllm.data.forgotten_file._insert", full)
        with pytest.raises(DiskFullError):
            Forgotten.load(home)
    assert names(home) == {JOURNAL, HEAD, KEY}
    assert len(Forgotten.load(home).entries) == 3

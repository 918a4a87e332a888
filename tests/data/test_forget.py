"""Records that were withdrawn are trained on in no later round, and nobody is told what they were."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fedllm.data.forget import Forgotten, forget
from fedllm.data.forgotten_file import HEAD, JOURNAL, KEY
from fedllm.errors import DataError, IdentityError

RECORDS = [
    {"id": "1", "text": "one", "person": "anna"},
    {"id": "2", "text": "two", "person": "bjorn"},
    {"id": "3", "text": "three", "person": "anna"},
    {"text": "four"},
]


def ids(records: list[dict[str, str]]) -> list[str]:
    return [record.get("id", "-") for record in records]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home in which anna and record 2 were withdrawn."""
    forget(tmp_path, [("person", "anna")])
    forget(tmp_path, [("id", "2")])
    return tmp_path


def lines(home: Path) -> list[bytes]:
    return (home / JOURNAL).read_bytes().splitlines(keepends=True)


def refused(home: Path, reason: str, error: type[Exception] = DataError) -> None:
    """Neither reading nor adding goes on, and both say why in one line."""
    for act in (lambda: Forgotten.load(home), lambda: forget(home, [("id", "9")])):
        with pytest.raises(error, match=reason) as caught:
            act()
        assert "\n" not in str(caught.value)


def test_all_records_that_match_any_entry_are_left_out(home: Path) -> None:
    assert ids(Forgotten.load(home).keep(RECORDS)) == ["-"]  # type: ignore[arg-type]


def test_a_home_without_a_journal_forgot_nothing_and_gets_no_file(tmp_path: Path) -> None:
    assert Forgotten.load(tmp_path).keep(RECORDS) == RECORDS
    assert list(tmp_path.iterdir()) == []


def test_a_value_matches_in_its_own_field_alone(tmp_path: Path) -> None:
    now, _ = forget(tmp_path, [("text", "anna"), ("id", "one")])
    assert now.keep(RECORDS) == RECORDS


def test_letters_that_unicode_holds_equal_are_equal(tmp_path: Path) -> None:
    now, _ = forget(tmp_path, [("person", "Jose\u0301")])
    assert now.keep([{"person": "Jos\u00e9"}, {"person": "Jose"}]) == [{"person": "Jose"}]


def test_the_count_is_an_entrys_own(home: Path) -> None:
    now = Forgotten.load(home)
    assert [now.count(entry, RECORDS) for entry in now.entries] == [2, 1]


def test_what_is_journaled_already_is_not_journaled_again(home: Path) -> None:
    before = lines(home)
    now, new = forget(home, [("id", "2"), ("id", "3"), ("id", "3")])
    assert [entry.field for entry in new] == ["id"]
    assert len(now.entries) == 3
    assert lines(home)[:2] == before  # what was there stands, byte for byte


def test_the_journal_holds_no_value_and_the_same_value_looks_different_at_another_home(
    home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    forget(other, [("person", "anna")])
    for file in (JOURNAL, HEAD, KEY):
        assert b"anna" not in (home / file).read_bytes()
    marks = [json.loads(lines(place)[0])["value"] for place in (home, other)]
    assert marks[0] != marks[1]
    assert set(json.loads(lines(home)[0])) == {"seq", "at", "field", "value", "previous", "mac"}


def test_every_file_is_its_owners_alone(home: Path) -> None:
    files = [file for file in home.iterdir() if file.is_file()]
    assert {JOURNAL, HEAD, KEY} <= {file.name for file in files}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_every_changed_byte_of_any_line_is_refused(home: Path) -> None:
    whole = (home / JOURNAL).read_bytes()
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1
        (home / JOURNAL).write_bytes(changed)
        with pytest.raises(DataError, match=r"was edited|is torn"):
            Forgotten.load(home)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda told: told[1:], "line 1 was edited"),
        (lambda told: told[::-1], "line 1 was edited"),
        (lambda told: [told[0], told[0]], "line 2 was edited"),
        (lambda told: told[:1], "lost its end, line 2"),
        (lambda _told: [], "lost its end, line 2"),
        (lambda told: [*told, b"\n"], "line 3 was edited"),
        (lambda told: [*told, b"[1]\n"], "line 3 was edited"),
        (lambda told: [*told, b'{"mac":"\xff"}\n'], "line 3 was edited"),
    ],
)
def test_lines_that_are_gone_moved_or_added_are_refused(home: Path, damage, reason: str) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - a lambda
    (home / JOURNAL).write_bytes(b"".join(damage(lines(home))))
    refused(home, reason)


def test_lines_of_two_copies_of_one_journal_do_not_make_a_third(home: Path) -> None:
    kept = {file: (home / file).read_bytes() for file in (JOURNAL, HEAD)}
    forget(home, [("id", "3"), ("id", "4")])
    one = lines(home)
    for file, data in kept.items():
        (home / file).write_bytes(data)  # a backup of before
    forget(home, [("id", "5"), ("id", "6")])
    (home / JOURNAL).write_bytes(b"".join([*one[:3], lines(home)[3]]))
    refused(home, "line 4 was edited")


def test_spaces_put_into_a_line_are_an_edit_too(home: Path) -> None:
    (home / JOURNAL).write_bytes((home / JOURNAL).read_bytes().replace(b'":', b'": '))
    refused(home, r"line 2 was edited|line 2 is not what")


def test_equal_values_of_two_fields_look_unlike_in_the_journal(tmp_path: Path) -> None:
    forget(tmp_path, [("id", "anna"), ("person", "anna")])
    assert len({json.loads(line)["value"] for line in lines(tmp_path)}) == 2


def test_a_line_whose_writing_was_cut_off_is_named_with_what_to_do(home: Path) -> None:
    whole = (home / JOURNAL).read_bytes()
    with (home / JOURNAL).open("ab") as file:
        file.write(lines(home)[0][:40])  # what a crash in the middle of `append` leaves
    refused(home, "line 3 is torn: nothing is trained until you remove that line and run")
    (home / JOURNAL).write_bytes(whole)
    assert len(Forgotten.load(home).entries) == 2


def test_a_torn_line_that_had_been_confirmed_is_restored_and_not_removed(home: Path) -> None:
    (home / JOURNAL).write_bytes((home / JOURNAL).read_bytes()[:-5])
    refused(home, "line 2 is torn: nothing is trained until it is restored from your backup")


def test_entries_that_were_written_just_before_a_crash_count(home: Path) -> None:
    before = (home / HEAD).read_bytes()
    forget(home, [("id", "3")])
    (home / HEAD).write_bytes(before)  # the lines were on the disk, the head was not yet
    assert len(Forgotten.load(home).entries) == 3
    assert len(forget(home, [("id", "4")])[0].entries) == 4


@pytest.mark.parametrize(
    ("gone", "reason"), [(KEY, "forgotten.key is gone"), (JOURNAL, "forgotten.jsonl is gone")]
)
def test_a_file_that_is_gone_is_refused(home: Path, gone: str, reason: str) -> None:
    (home / gone).unlink()
    refused(home, reason)


def test_a_journal_and_head_that_are_both_gone_are_no_empty_journal(home: Path) -> None:
    (home / JOURNAL).unlink()
    (home / HEAD).unlink()
    refused(home, "forgotten.jsonl is gone")


def test_a_key_of_another_home_is_refused(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    forget(other, [("id", "1")])
    (home / KEY).write_bytes((other / KEY).read_bytes())
    refused(home, "line 1 was edited, or forgotten.key is not the one")


def test_a_key_that_others_can_read_or_that_is_damaged_is_refused(home: Path) -> None:
    (home / KEY).chmod(0o644)
    refused(home, "chmod 600", IdentityError)
    (home / KEY).chmod(0o600)
    (home / KEY).write_bytes(b"short\n")
    refused(home, "holds no key of ours", IdentityError)


@pytest.mark.parametrize("text", [b"", b"[]", b'{"seq": "x", "sha256": ""}', b'{"seq": 1, "sha256": "0"}'])
def test_a_damaged_head_is_refused(home: Path, text: bytes) -> None:
    (home / HEAD).write_bytes(text)
    refused(home, "forgotten.head is damaged|is not what forgotten.head names")


PROGRAM = """
import sys
from pathlib import Path
from fedllm.data.forget import forget
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    forget(Path(sys.argv[1]), [("id", str(number))])
    print(number, flush=True)
"""


def forgets(home: Path, start: int, end: int) -> "subprocess.Popen[str]":
    """A process that withdraws one record after another, and says so each time."""
    command = [sys.executable, "-c", PROGRAM, str(home), str(start), str(end)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


# Not forked from here: a library's threads of earlier tests are missing in a fork, which then ends with 1.
@pytest.mark.servers
def test_two_processes_at_once_lose_no_entry(tmp_path: Path) -> None:
    processes = [forgets(tmp_path, start, start + 20) for start in (0, 20)]
    said = [process.communicate(timeout=240)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [len(lines) for lines in said] == [20, 20]
    now = Forgotten.load(tmp_path)
    assert [entry.seq for entry in now.entries] == list(range(40))
    assert now.keep([{"id": str(number)} for number in range(41)]) == [{"id": "40"}]


@pytest.mark.servers
def test_a_process_that_is_killed_while_it_journals_loses_nothing_that_it_confirmed(tmp_path: Path) -> None:
    process = forgets(tmp_path, 0, 1000)
    assert process.stdout is not None
    said = [int(process.stdout.readline()) for _ in range(20)]
    process.kill()
    said += [int(line) for line in process.stdout.read().splitlines()]
    process.wait(40)
    kept = Forgotten.load(tmp_path).keep([{"id": str(number)} for number in said])
    assert kept == []
    assert len(forget(tmp_path, [("id", "last")])[1]) == 1


@pytest.mark.servers
def test_a_line_for_which_there_is_no_room_is_not_there_in_part(home: Path) -> None:
    before = (home / JOURNAL).read_bytes()
    code = (
        "import resource, sys; from pathlib import Path; from fedllm.data.forget import forget\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 50}, {len(before) + 50}))\n"
        f"forget(Path({str(home)!r}), [('id', '9')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot journal in" in done.stderr
    assert (home / JOURNAL).read_bytes() == before
    assert len(Forgotten.load(home).entries) == 2


def test_a_home_that_is_not_there_does_not_pass_for_one_without_withdrawals(tmp_path: Path) -> None:
    refused(tmp_path / "none", "none: no such folder")
    assert list(tmp_path.iterdir()) == []

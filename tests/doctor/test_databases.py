"""What the doctor says of databases; and that it leaves them as they are."""

import hashlib
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fedllm.doctor import databases
from fedllm.doctor.databases import database
from fedllm.doctor.finding import Finding

pytestmark = pytest.mark.servers


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a folder" / "kept.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as made, made:
        made.execute("PRAGMA journal_mode=WAL")
        made.execute("CREATE TABLE kept (name TEXT PRIMARY KEY, body TEXT)")
        made.executemany("INSERT INTO kept VALUES (?, ?)", [(str(n), "x" * 100) for n in range(2000)])
    return path


def checked(path: Path) -> Finding:
    (found,) = database("journal", f"sqlite:///{path}")
    return found


def folder(path: Path) -> dict[str, tuple[int, str]]:
    return {
        one.name: (one.stat().st_mtime_ns, hashlib.sha256(one.read_bytes()).hexdigest())
        for one in path.parent.iterdir()
    }


@pytest.fixture
def writer(file: Path) -> Iterator[sqlite3.Connection]:
    """Somebody who has the file open and has written to its log."""
    with closing(sqlite3.connect(file)) as opened:
        with opened:
            opened.execute("INSERT INTO kept VALUES ('new', 'y')")
        yield opened


def test_a_whole_file_is_well_and_nothing_beside_it_appears(file: Path) -> None:
    before = folder(file)
    found = checked(file)
    assert (found.status, "MB" in found.detail) == ("ok", True)
    assert folder(file) == before
    assert list(before) == ["kept.db"]


def test_a_file_in_use_is_read_with_its_log(file: Path, writer: sqlite3.Connection) -> None:
    assert writer
    found = checked(file)
    assert (found.status, "a log of" in found.detail) == ("ok", True)


@pytest.mark.usefixtures("writer")
def test_a_log_that_nobody_folds_in_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "_WAL", 0.001)
    found = checked(file)
    assert (found.status, "not merged" in found.detail) == ("warn", True)


def test_a_damaged_page_is_found(file: Path) -> None:
    data = bytearray(file.read_bytes())
    for start in range(4096 * 3, len(data), 4096):
        data[start : start + 200] = b"\xff" * 200
    file.write_bytes(data)
    found = checked(file)
    assert found.status == "fail"
    assert "backup" in found.remedy


def test_a_file_that_is_none_of_sqlites_is_told_in_one_line(file: Path) -> None:
    file.write_bytes(b"no database at all" * 400)
    found = checked(file)
    assert (found.status, "cannot be read" in found.detail) == ("fail", True)


def test_a_file_too_large_for_the_time_is_said_to_be_checked_in_part(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "_PATIENCE", -1.0)
    found = checked(file)
    assert (found.status, "too large" in found.detail) == ("ok", True)


def test_one_that_is_not_there_is_made_at_first_use_and_not_by_looking(tmp_path: Path) -> None:
    assert checked(tmp_path / "no.db").status == "ok"
    assert not (tmp_path / "no.db").exists()


def rollback(path: Path) -> None:
    """Have a file keep a rollback journal and no write-ahead log, as MLflow's."""
    with closing(sqlite3.connect(path)) as made:
        assert made.execute("PRAGMA journal_mode=DELETE").fetchone() == ("delete",)


WRITER = """
import sqlite3, sys, time
path, kind = sys.argv[1:]
if kind == "busy":
    print("ready", flush=True)
while kind == "busy":
    db = sqlite3.connect(path, timeout=60)
    with db:
        db.execute("UPDATE kept SET body = hex(randomblob(60 + abs(random()) % 900))")
    db.close()
db = sqlite3.connect(path, isolation_level=None)
db.execute("PRAGMA cache_size=1")
db.execute("BEGIN EXCLUSIVE")
db.execute("UPDATE kept SET body = 'half' || body")
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def start(file: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Another process that writes to the file, over and over or in one transaction that it never ends."""
    started: list[subprocess.Popen[str]] = []

    def begin(kind: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", WRITER, str(file), kind]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("logged", [False, True])
def test_a_sound_file_is_never_called_damaged_while_it_is_written(
    file: Path, start: Callable[[str], subprocess.Popen[str]], logged: bool
) -> None:
    if not logged:
        rollback(file)
    start("busy")
    found = [checked(file) for _ in range(15)]
    assert [one.detail for one in found if one.status == "fail"] == []
    assert any(one.status == "ok" for one in found)


def test_a_fault_of_a_file_that_changed_meanwhile_is_looked_at_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, torn = databases._quick_check, []

    def writing(path: Path) -> tuple[bool, str]:
        """Somebody opens the file, writes, and is gone, while it is read without a lock."""
        if len(torn) == times:
            return check(path)
        torn.append(path)
        with closing(sqlite3.connect(path)) as opened, opened:
            opened.execute("INSERT INTO kept VALUES (?, 'y')", (f"new {len(torn)}",))
        return True, "Tree 2 page 3: btreeInitPage() returns error code 11"

    monkeypatch.setattr(databases, "_quick_check", writing)
    times = 2
    assert checked(file).status == "ok"
    times = 10
    found = checked(file)
    assert (found.status, "faster than it can be read" in found.detail) == ("warn", True)


def test_a_file_that_is_locked_is_a_warning_and_a_copy_of_it_ends(
    file: Path, start: Callable[[str], subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "_BUSY", 0.3)
    rollback(file)
    start("once")
    found = checked(file)
    assert (found.status, "is locked" in found.detail) == ("warn", True)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        databases.copy(file, file.with_name("copy.db"))


def test_a_transaction_that_its_process_left_behind_is_no_damage(
    file: Path, start: Callable[[str], subprocess.Popen[str]]
) -> None:
    rollback(file)
    process = start("once")
    process.kill()
    process.wait()
    before = folder(file)
    assert set(before) == {"kept.db", "kept.db-journal"}
    found = checked(file)
    assert (found.status, "died in a transaction" in found.detail) == ("warn", True)
    assert folder(file) == before
    with closing(sqlite3.connect(file)) as opened:
        assert opened.execute("SELECT count(*) FROM kept WHERE body LIKE 'half%'").fetchone() == (0,)
    assert checked(file).status == "ok"


def test_looking_at_a_file_takes_no_lock_from_this_process(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "_BUSY", 0.1)
    rollback(file)
    write = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('DELETE FROM kept')"
    with closing(sqlite3.connect(file, isolation_level=None)) as ours:
        ours.execute("BEGIN EXCLUSIVE")
        assert checked(file).status == "warn"
        argv = [sys.executable, "-c", write, str(file)]
        tried = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert "database is locked" in tried.stderr


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg", "postgresql+psycopg"])
def test_a_postgres_that_is_away_is_told_without_its_password(scheme: str) -> None:
    url = f"{scheme}://fedllm:secret@127.0.0.1:1/journal?connect_timeout=2"
    (found,) = database("journal", url)
    assert (found.status, "cannot be read" in found.detail) == ("fail", True)
    assert "refused" in found.detail
    assert "secret" not in found.detail


def test_nothing_can_be_written_through_an_engine_for_reading(file: Path) -> None:
    from sqlalchemy import text
    from sqlalchemy.exc import OperationalError

    engine = databases.reading_engine(f"sqlite:///{file}")
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM kept")) == 2000
        with pytest.raises(OperationalError, match="readonly"):
            connection.execute(text("DELETE FROM kept"))
    engine.dispose()

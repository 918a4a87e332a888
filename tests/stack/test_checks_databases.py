"""What the doctor says of databases; and that it leaves them as they are."""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fedllm.stack.checks import databases
from fedllm.stack.checks.databases import database
from fedllm.stack.checks.finding import Finding


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
    assert (found.status, "not folded in" in found.detail) == ("warn", True)


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


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg", "postgresql+psycopg"])
def test_a_postgres_that_is_away_is_told_without_its_password(scheme: str) -> None:
    url = f"{scheme}://fedllm:secret@127.0.0.1:1/journal?connect_timeout=2"
    (found,) = database("journal", url)
    assert (found.status, "does not answer" in found.detail) == ("fail", True)
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

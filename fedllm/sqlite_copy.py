"""SQLite's online backup, which ends also where the database stays locked."""

import sqlite3
import time

_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def copy_connection(source: sqlite3.Connection, target: sqlite3.Connection, seconds: float) -> None:
    """Copy a database that may be in use.

    Raises:
        sqlite3.Error: it cannot be copied, or stays locked for so long (SQLITE_BUSY): by itself, sqlite3
            begins again without an end.
    """
    deadline = time.monotonic() + seconds

    def heard(status: int, _remaining: int, _total: int) -> None:
        if status in _LOCKED and time.monotonic() > deadline:
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorname = "SQLITE_BUSY"
            raise error

    source.backup(target, progress=heard)

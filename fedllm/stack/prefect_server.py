"""Prefect's server as the stack runs it: for its own pages alone, and with less patience for its own SQLite.

By itself it answers any Host and lets pages of any origin read its answers (`OwnPages`).

Python's sqlite3 frees a cursor with the GIL held, and for that waits for the mutex of its connection. When
that connection is waiting for the database's lock, and who holds the lock needs the GIL to go on, the whole
server stands still until SQLite gives up: 60 s with Prefect 3.8.8 (docs/decisions/0017). Who is refused after
`_PATIENCE` is told 503, and Prefect's clients ask again.
"""

import os
from typing import Any

from prefect.server.api.server import create_app as prefects
from sqlalchemy import event
from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_connection
from sqlalchemy.pool import Pool

from fedllm.stack.own_pages import OwnPages, own_pages

_PATIENCE = 5  # s; a write takes milliseconds, and Prefect's clients wait 60 s for an answer


def create_app() -> OwnPages:
    """Prefect's application; `uvicorn --factory` calls it."""
    # Not when a connection is made: Prefect sets its own patience then, after any listener of ours.
    event.listen(Pool, "checkout", _shorten)
    # Around Prefect's application, not among its middleware: its automations ask that application itself, as
    # the host prefect-in-memory, and no request from outside may use that name.
    return own_pages(prefects(), os.environ.get("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", ""))


def _shorten(connection: Any, record: Any, _proxy: object) -> None:  # noqa: ANN401 - SQLAlchemy's own are untyped
    """Set the patience of a SQLite connection, once in its life."""
    if "patience" in record.info or not isinstance(connection, AsyncAdapt_aiosqlite_connection):
        return
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_PATIENCE * 1000}")
    cursor.close()
    record.info["patience"] = _PATIENCE

"""Prefect's server as the stack runs it: only for its own pages, and with a shorter SQLite timeout.

By default Prefect answers any Host and lets pages of any origin read its answers (`OwnPages`).

Python's sqlite3 frees a cursor while it holds the GIL, and waits for the mutex of the connection to do so. If
that connection waits for the database's lock, and the lock's holder needs the GIL, the whole server blocks
until SQLite gives up: 60 s with Prefect 3.8.8 (docs/decisions/0017). After `_PATIENCE` a request is answered
with 503, and Prefect's clients retry.
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
    """Create Prefect's application; `uvicorn --factory` calls this."""
    # Not at "connect": there Prefect sets its own timeout, after any listener of ours.
    event.listen(Pool, "checkout", _shorten)
    # Around Prefect's application, not in its middleware: its automations call that application directly, as
    # the host prefect-in-memory, and no request from outside may use that name.
    return own_pages(prefects(), os.environ.get("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", ""))


def _shorten(connection: Any, record: Any, _proxy: object) -> None:  # noqa: ANN401 - SQLAlchemy's own are untyped
    """Set the busy timeout of a SQLite connection, once per connection."""
    if "patience" in record.info or not isinstance(connection, AsyncAdapt_aiosqlite_connection):
        return
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_PATIENCE * 1000}")
    cursor.close()
    record.info["patience"] = _PATIENCE

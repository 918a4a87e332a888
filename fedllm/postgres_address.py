"""Convert a Postgres URL of SQLAlchemy to the form that psycopg or libpq needs."""

import os
import re
from typing import TYPE_CHECKING

from fedllm.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy import URL

_SCHEME = re.compile(r"postgres(ql)?(\+\w+)?://")
# Parameters of asyncpg, and of SQLAlchemy for it, that libpq does not have.
_ASYNCPG = {
    "async_fallback",
    "command_timeout",
    "direct_tls",
    "max_cacheable_statement_size",
    "max_cached_statement_lifetime",
    "prepared_statement_cache_size",
    "prepared_statement_name_func",
    "record_class",
    "server_settings",
    "statement_cache_size",
    "timeout",
}
_PSYCOPG = {"autocommit", "prepare_threshold"}
# libpq reads only the password from the environment.
_SECRET = {"oauth_client_secret", "password", "scram_client_key", "scram_server_key", "sslpassword"}


def is_postgres(url: str) -> bool:
    """Return whether an address is of Postgres, with any driver."""
    return _SCHEME.match(url) is not None


def with_driver(url: str) -> str:
    """Return a Postgres address for a synchronous engine (psycopg), and any other address unchanged.

    Raises:
        ConfigError: the address is invalid; the error does not quote it, as it may hold a password.
    """
    return _parsed(url).render_as_string(hide_password=False) if is_postgres(url) else url


def libpq(url: str) -> tuple[str, dict[str, str]]:
    """Convert a Postgres address for programs such as pg_dump.

    Returns:
        libpq's connection string without secrets, and the environment for the program, with the password.

    Raises:
        ConfigError: the address is invalid, or holds a secret that could only be passed on a command line.
    """
    parsed = _parsed(url)
    _, arguments = parsed.get_dialect()().create_connect_args(parsed)
    options = {name: str(value) for name, value in arguments.items() if name not in _PSYCOPG}
    password = options.pop("password", None)
    if names := sorted(_SECRET & options.keys()):
        raise ConfigError(f"{shown(url)}: {names[0]} would be on pg_dump's command line: do without it there")
    address = " ".join(f"{name}='{_escaped(value)}'" for name, value in options.items())
    return address, os.environ | ({"PGPASSWORD": password} if password else {})


def shown(url: str) -> str:
    """Return a database's address with its secrets masked."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return "an address that cannot be read"
    masked = parsed.update_query_dict({name: "***" for name in parsed.query if name in _SECRET})
    return masked.render_as_string(hide_password=True)


def _parsed(url: str) -> "URL":
    """Parse an address, for psycopg and with libpq's parameter names."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigError("write postgresql+psycopg://USER:PASSWORD@HOST/DATABASE") from None
    query = {name: value for name, value in parsed.query.items() if name not in _ASYNCPG}
    if "ssl" in query:
        query["sslmode"] = query.pop("ssl")  # asyncpg's name for it, with the same values
    return parsed.set(drivername="postgresql+psycopg", query=query)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")

"""A Postgres' address as each who connects wants it: SQLAlchemy's URL in, a driver's or libpq's own out."""

import os
import re
from typing import TYPE_CHECKING

from fedllm.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy import URL

_SCHEME = re.compile(r"postgres(ql)?(\+\w+)?://")
# What asyncpg takes, and SQLAlchemy on its behalf, that libpq has no word for.
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
    """Whether an address is a Postgres', with whichever driver."""
    return _SCHEME.match(url) is not None


def with_driver(url: str) -> str:
    """A Postgres' address for an engine that waits for its answers (psycopg); any other as it is.

    Raises:
        ConfigError: it is none that can be read; it is not quoted, since it may hold a password.
    """
    return _parsed(url).render_as_string(hide_password=False) if is_postgres(url) else url


def libpq(url: str) -> tuple[str, dict[str, str]]:
    """A Postgres' address for pg_dump and its like.

    Returns:
        libpq's connection string without a secret, and the environment to run the program in, with the
        password.

    Raises:
        ConfigError: the address cannot be read, or holds a secret that only a command line could carry.
    """
    parsed = _parsed(url)
    _, found = parsed.get_dialect()().create_connect_args(parsed)
    told = {name: str(value) for name, value in found.items() if name not in _PSYCOPG}
    password = told.pop("password", None)
    if kept := sorted(_SECRET & told.keys()):
        raise ConfigError(f"{shown(url)}: {kept[0]} would be on pg_dump's command line: do without it there")
    address = " ".join(f"{name}='{_escaped(value)}'" for name, value in told.items())
    return address, os.environ | ({"PGPASSWORD": password} if password else {})


def shown(url: str) -> str:
    """A database's address as it may be shown: secrets are masked."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return "an address that cannot be read"
    masked = parsed.update_query_dict({name: "***" for name in parsed.query if name in _SECRET})
    return masked.render_as_string(hide_password=True)


def _parsed(url: str) -> "URL":
    """The address for psycopg, in libpq's words."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigError("write postgresql+psycopg://USER:PASSWORD@HOST/DATABASE") from None
    query = {name: value for name, value in parsed.query.items() if name not in _ASYNCPG}
    if "ssl" in query:
        query["sslmode"] = query.pop("ssl")  # asyncpg's word for it, with the same values
    return parsed.set(drivername="postgresql+psycopg", query=query)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")

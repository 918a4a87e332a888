"""Addresses are read by the programs themselves: SQLAlchemy with psycopg, and libpq."""

import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import create_engine, make_url

from fedllm.errors import ConfigError
from fedllm.postgres_address import is_postgres, libpq, shown, with_driver


@pytest.mark.parametrize(
    ("url", "there"),
    [
        ("postgres://u@h/d", True),
        ("postgresql://u@h/d", True),
        ("postgresql+asyncpg://u@h/d", True),
        ("postgresql+psycopg2://u@h/d", True),
        ("sqlite:////postgres.db", False),
        ("postgresqlite://u@h/d", False),
        ("mysql://postgres://h/d", False),
    ],
)
def test_a_postgres_is_known_by_its_scheme_with_any_driver_or_none(url: str, *, there: bool) -> None:
    assert is_postgres(url) is there


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg", "postgresql+psycopg2"])
def test_any_drivers_address_opens_as_a_sync_engine(scheme: str) -> None:
    url = with_driver(f"{scheme}://u:p%40s@h:5433/d?ssl=require&prepared_statement_cache_size=0")
    engine = create_engine(url)
    assert (engine.driver, engine.url.password, engine.url.port) == ("psycopg", "p@s", 5433)
    assert dict(engine.url.query) == {"sslmode": "require"}
    assert with_driver(url) == url


def test_another_databases_address_stays_as_it_is() -> None:
    assert with_driver("sqlite:////srv/journal.db") == "sqlite:////srv/journal.db"


def test_libpq_reads_what_sqlalchemy_read_and_the_password_is_in_the_environment_alone() -> None:
    url = (
        "postgresql+asyncpg://us%20er:not-this@h:5433/d?password=p%27s&ssl=verify-full"
        "&sslrootcert=/a%20b/it%27s.crt&options=-c%20statement_timeout%3D5&command_timeout=3"
    )
    address, environment = libpq(url)
    assert conninfo_to_dict(address) == {
        "user": "us er",
        "host": "h",
        "port": "5433",
        "dbname": "d",
        "sslmode": "verify-full",
        "sslrootcert": "/a b/it's.crt",
        "options": "-c statement_timeout=5",
    }
    assert environment["PGPASSWORD"] == "p's"


def test_several_hosts_and_a_socket_are_told_to_libpq_as_it_wants_them() -> None:
    several, _ = libpq("postgresql+psycopg://u@/d?host=one:5432&host=two:5433")
    assert conninfo_to_dict(several) == {"user": "u", "dbname": "d", "host": "one,two", "port": "5432,5433"}
    socket, _ = libpq("postgresql+psycopg:///d?host=/var/run/postgresql")
    assert conninfo_to_dict(socket) == {"dbname": "d", "host": "/var/run/postgresql"}


def test_an_address_is_shown_without_its_secrets() -> None:
    told = shown("postgresql+asyncpg://u:one@h/d?password=two&sslpassword=three&sslmode=require")
    assert not [secret for secret in ("one", "two", "three") if secret in told]
    assert make_url(told).query["sslmode"] == "require"
    assert shown("sqlite:////srv/journal.db") == "sqlite:////srv/journal.db"
    assert shown("postgresql://u:secret@h:port/d") == "an address that cannot be read"


def test_a_secret_that_only_a_command_line_could_carry_is_refused_without_being_quoted() -> None:
    with pytest.raises(ConfigError, match="sslpassword") as caught:
        libpq("postgresql://u@h/d?sslpassword=secret")
    assert "secret" not in str(caught.value)


def test_an_address_that_cannot_be_read_is_one_line_that_does_not_quote_it() -> None:
    with pytest.raises(ConfigError, match="write postgresql") as caught:
        with_driver("postgresql://u:secret@h:port/d")
    assert "secret" not in str(caught.value)

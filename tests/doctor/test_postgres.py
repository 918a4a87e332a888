"""What the doctor says of a real Postgres, and of one that does not answer."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import InternalError

from fedllm.config import FederationConfig
from fedllm.doctor import checkup as checkup_module
from fedllm.doctor import databases, federation
from fedllm.doctor.checkup import checkup
from fedllm.doctor.databases import database, reading_engine
from fedllm.doctor.finding import Finding, tried
from fedllm.endpoints.addresses import read_endpoints
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.endpoints.state import StackState
from fedllm.errors import JournalError
from fedllm.journal.journal import Journal
from fedllm.journal.runs import begin_run
from fedllm.journal.tables import LeaseRow
from tests.coordinator.conftest import config, sites
from tests.coordinator.played import PlayedSite
from tests.postgres_server import PostgresServer

__all__ = ("config", "sites")  # fixtures

PASSWORD = "hush-hush"
DRIVERS = {"mlflow": "psycopg", "prefect": "asyncpg"}  # as each server wants its address


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(PASSWORD) as running:
        yield running


@pytest.fixture
def url(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new database's address, which is the journal's."""
    found = server.url(server.database())
    monkeypatch.setenv("FEDLLM_JOURNAL_URL", found)
    return found


@pytest.fixture
def journal(url: str) -> Iterator[Journal]:
    with closing(Journal("played", url)) as opened:
        yield opened


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of one who takes connections and never says a word."""
    monkeypatch.setattr(databases, "_LIMITS", {**databases._LIMITS, "connect_timeout": 2})
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"postgresql+psycopg://fedllm:{PASSWORD}@127.0.0.1:{listening.getsockname()[1]}/journal"


def looked(url: str) -> Finding:
    (found,) = database("journal", url)
    assert PASSWORD not in found.detail
    return found


def left() -> dict[str, Finding]:
    return {finding.name: finding for finding in federation.leftovers("played")}


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_a_postgres_that_answers_is_well_however_its_address_is_spelled(
    server: PostgresServer, driver: str
) -> None:
    plain = server.url("postgres", driver)
    for url in (plain, plain.replace(f"+{driver}", ""), plain.replace(f"postgresql+{driver}", "postgres")):
        found = looked(url)
        assert (found.status, found.detail.endswith(" MB")) == ("ok", True), found


def test_the_doctor_is_content_with_a_journal_on_a_postgres(
    url: str, config: FederationConfig, sites: dict[str, PlayedSite]
) -> None:
    for site in sites.values():
        site.show_card()
    found = {finding.name: finding for finding in checkup(config)}
    assert [finding for finding in found.values() if finding.status == "fail"] == []
    for name in ("journal", "lease", "releases", "security events", "sites"):
        assert found[name].status == "ok", found[name]
    assert databases.shown(url) in found["journal"].detail


def test_the_stacks_own_databases_on_a_postgres_are_looked_at_there(
    server: PostgresServer, tmp_path: Path
) -> None:
    place = StackPaths(tmp_path)
    place.create()
    kept = {name: server.url(server.database(), driver) for name, driver in DRIVERS.items()}
    place.write_private(place.folder / "databases.json", json.dumps(kept))
    stack = read_endpoints(place, StackState(ports={"minio": 1, "prefect": 1, "mlflow": 1}))
    checks = {name: (name, remedy, check) for name, remedy, check in checkup_module._stack(stack)}
    for name, address in kept.items():
        (found,) = tried(*checks[f"{name} database"])
        assert (found.status, databases.shown(address) in found.detail) == ("ok", True), found


def test_tls_is_asked_for_in_asyncpgs_words_as_prefects_address_has_them(server: PostgresServer) -> None:
    url = server.url("postgres", "asyncpg")
    assert looked(f"{url}?ssl=prefer&prepared_statement_cache_size=0").status == "ok"
    found = looked(f"{url}?ssl=require")  # this server has no TLS
    assert (found.status, "does not support SSL" in found.detail) == ("fail", True), found


def test_a_wrong_password_and_a_database_that_is_not_there_are_each_named(server: PostgresServer) -> None:
    found = looked(server.url("postgres").replace(PASSWORD, "wrong"))
    assert (found.status, "password authentication failed" in found.detail) == ("fail", True), found
    assert "password" in found.remedy
    assert 'database "nowhere" does not exist' in looked(server.url("nowhere")).detail


def test_one_that_is_silent_is_not_waited_for(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = time.monotonic()
    assert looked(silent).status == "fail"
    monkeypatch.setenv("FEDLLM_JOURNAL_URL", silent)
    with pytest.raises(JournalError, match="cannot be read") as caught:
        left()
    assert PASSWORD not in str(caught.value)
    assert time.monotonic() - begun < 15


def test_a_table_that_somebody_holds_is_not_waited_for(
    journal: Journal, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert journal
    with psycopg.connect(url.replace("+psycopg", "")) as other, monkeypatch.context() as brief:
        brief.setattr(databases, "_STATEMENT", 300)
        other.execute("LOCK TABLE lease IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(JournalError, match="statement timeout"):
            left()
    assert left()["lease"].status == "ok"


def test_a_database_that_no_coordinator_has_used_yet_is_no_fault(url: str) -> None:
    assert looked(url).status == "ok"
    assert left()["lease"].detail == "no training has run yet"
    assert federation.roster("played") == []


def test_nothing_can_be_written_through_an_engine_for_reading(journal: Journal, url: str) -> None:
    assert journal
    engine = reading_engine(url)
    with engine.connect() as connection, pytest.raises(InternalError, match="read-only"):
        connection.execute(text("DELETE FROM lease"))
    engine.dispose()


def test_a_lease_runs_by_the_databases_clock_and_not_by_this_machines(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with journal.write() as session:
        expires = journal.now(session) + 25
        holder = "elsewhere|7|1.0"
        session.merge(LeaseRow(federation="played", epoch=1, holder=holder, run="run-1", expires=expires))
    now = time.time
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time", lambda: now() + 60)
        assert left()["lease"] == Finding("lease", "ok", "process 7 on elsewhere leads run-1")
    with journal.write() as session:
        session.get_one(LeaseRow, "played").expires = journal.now(session) - 1
    with monkeypatch.context() as behind:
        behind.setattr(time, "time", lambda: now() - 60)
        assert "--resume run-1" in left()["lease"].remedy


def test_refusals_of_two_federations_in_one_database_are_told_apart(journal: Journal, url: str) -> None:
    begin_run(journal, "ours", "{}")
    with closing(Journal("other", url)) as other:
        begin_run(other, "theirs", "{}")
        other.save_roster(json.dumps({"roster_version": 1, "sites": []}), after=0)
    for _ in range(2):
        journal.security.record("refused", "mill", "forged", "ours", 1)
    journal.security.record("refused", "clinic", "forged", "theirs", 1)
    assert left()["security events"].detail == "since yesterday: mill: refused (2 times)"

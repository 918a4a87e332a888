"""Dumps of a real Postgres, whatever driver its addresses name, and back into empty databases."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedllm.backup.counters import HEADS, ORIGIN
from fedllm.backup.create import create_backup
from fedllm.backup.databases import dump_postgres, restore_postgres
from fedllm.backup.restore import restore
from fedllm.config import FederationConfig
from fedllm.coordinator.members import add_site
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.errors import BackupError, ConfigError
from fedllm.secure.identity import create_identity
from fedllm.stack.databases import VARIABLES, databases
from tests.postgres_server import PostgresServer

SECRET = "pg-secret-7f3a"
PARTS = {"journal": "FEDLLM_JOURNAL_URL", **VARIABLES}


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(SECRET) as running:
        yield running


def addresses(server: PostgresServer, names: dict[str, str]) -> dict[str, str]:
    """Each as it is written for its own user: without a driver, with asyncpg's, with the password behind."""
    bare = server.url(names["journal"]).replace("postgresql+psycopg://", "postgres://")
    prefect = server.url(names["prefect"], "asyncpg") + "?ssl=disable&prepared_statement_cache_size=0"
    mlflow = server.url(names["mlflow"]).replace(f":{SECRET}@", "@") + f"?password={SECRET}"
    return {"journal": bare, "prefect": prefect, "mlflow": mlflow}


def name(patch: pytest.MonkeyPatch, urls: dict[str, str]) -> None:
    for part, url in urls.items():
        patch.setenv(PARTS[part], url)


def test_three_databases_go_into_an_archive_and_back_and_the_restored_stack_uses_the_new_ones(
    server: PostgresServer, config: FederationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = ({part: server.database() for part in PARTS} for _ in range(2))
    name(monkeypatch, addresses(server, old))
    add_site(config, create_identity(tmp_path / "mill", "mill").public)
    for part in ("mlflow", "prefect"):
        server.sql("create table kept (n int); insert into kept values (7)", old[part])
    made = create_backup(tmp_path / "b.tar", configs=[config])
    assert set(made.databases) == set(PARTS)
    assert not (tmp_path / "home" / "stack").exists()  # the shell's addresses are not remembered by a backup
    assert SECRET.encode() not in (tmp_path / "b.tar").read_bytes()

    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "new"))
    with pytest.raises(BackupError, match="holds tables already") as filled:
        restore(tmp_path / "b.tar", keep_objects=True)
    assert SECRET not in str(filled.value)
    urls = addresses(server, new)
    name(monkeypatch, urls)
    assert restore(tmp_path / "b.tar", keep_objects=True).outside == {"played": ("mill",)}
    for part in ("mlflow", "prefect"):
        assert server.sql("select n from kept", new[part]) == [(7,)]
    query = "select head_counter from federation"
    ((then,),), ((now,),) = (server.sql(query, place["journal"]) for place in (old, new))
    assert now >= max(then + 1, HEADS * int(made.taken - ORIGIN))
    for variable in PARTS.values():
        monkeypatch.delenv(variable)
    found = databases(StackPaths.here())  # as in a shell that knows nothing of the rehearsal
    assert (found.prefect, found.mlflow) == (urls["prefect"], urls["mlflow"])
    kept = tmp_path / "new" / "stack" / "databases.json"
    assert set(json.loads(kept.read_text())) == {"prefect", "mlflow"}
    assert kept.stat().st_mode & 0o777 == 0o600


def test_an_archive_of_a_postgres_is_not_restored_without_an_address_for_each_dump(
    server: PostgresServer, config: FederationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLLM_JOURNAL_URL", server.url(server.database()))
    add_site(config, create_identity(tmp_path / "mill", "mill").public)
    create_backup(tmp_path / "b.tar", configs=[config])
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "new"))
    monkeypatch.delenv("FEDLLM_JOURNAL_URL")
    with pytest.raises(ConfigError, match="name an empty database for it in FEDLLM_JOURNAL_URL"):
        restore(tmp_path / "b.tar", keep_objects=True)


def test_another_postgres_than_the_trainings_is_found_out(
    server: PostgresServer, config: FederationConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLLM_JOURNAL_URL", server.url(server.database()))
    add_site(config, create_identity(tmp_path / "mill", "mill").public)
    (tmp_path / "home" / "coordinator" / "lost" / "keys").mkdir(parents=True)
    said: list[str] = []
    create_backup(tmp_path / "a.tar", configs=[config], progress=said.append)
    assert "the journal has no entry for lost: no site has joined it yet" in said
    (tmp_path / "home" / "coordinator" / "lost" / "runs").mkdir()  # it has trained
    with pytest.raises(BackupError, match=r"coordinator/lost has no journal here"):
        create_backup(tmp_path / "b.tar", configs=[config])


@pytest.mark.parametrize(
    "right",
    [
        "",  # the superuser itself
        "create role between; grant pg_execute_server_program to between; grant between to {user}",
        "grant postgres to {user}",
        "alter role {user} createrole",
    ],
    ids=["superuser", "may run programs", "may be a superuser", "may make roles"],
)
def test_a_user_who_could_run_programs_on_the_server_is_refused_before_a_dump_is_run(
    server: PostgresServer,
    config: FederationConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    right: str,
) -> None:
    monkeypatch.setenv("FEDLLM_JOURNAL_URL", server.url(server.database()))
    add_site(config, create_identity(tmp_path / "mill", "mill").public)
    create_backup(tmp_path / "b.tar", configs=[config])
    empty = server.database()
    user = f"owner_of_{empty}" if right else "postgres"
    if right:
        server.sql(f"create role {user} login password '{SECRET}'; alter database {empty} owner to {user}")
        server.sql(right.format(user=user))
    monkeypatch.setenv("FEDLLM_JOURNAL_URL", server.url(empty, user=user))
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "new"))
    with pytest.raises(BackupError, match=f"{user} is a superuser, or may .* use an ordinary user") as caught:
        restore(tmp_path / "b.tar", keep_objects=True)
    assert SECRET not in str(caught.value)
    assert not (tmp_path / "new").exists()
    with pytest.raises(BackupError, match="use an ordinary user"):
        restore_postgres(server.url(empty, user=user), tmp_path / "dump")


def test_a_wrong_password_is_one_line_at_once_and_shows_none(server: PostgresServer, tmp_path: Path) -> None:
    url = server.url(server.database()).replace(SECRET, "hush-hush") + "?password=hush-hush"
    for act in (
        lambda: dump_postgres(url, tmp_path / "dump"),
        lambda: restore_postgres(url, tmp_path / "dump"),
    ):
        with pytest.raises(BackupError, match="password authentication failed") as caught:
            act()
        assert "hush-hush" not in str(caught.value)
        assert "\n" not in str(caught.value)

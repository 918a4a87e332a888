"""Prefect, MLflow and the journal on one real Postgres: a training by deployment, a backup, a restore."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from playground import PATIENCE, SITES, fedllm

from fedllm.endpoints import Endpoints
from fedllm.stack import down, up
from tests.own_ports import own_ports
from tests.postgres_server import PostgresServer

SECRET = "pg-secret-7f3a"
PARTS = {
    "journal": ("FEDLLM_JOURNAL_URL", "psycopg"),
    "mlflow": ("FEDLLM_MLFLOW_DATABASE_URL", "psycopg"),
    "prefect": ("FEDLLM_PREFECT_DATABASE_URL", "asyncpg"),
}
COUNTS = {
    "journal": "select count(*) from outcome",
    "mlflow": "select count(*) from model_versions",
    "prefect": "select count(*) from task_run",
}


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(SECRET) as running:
        yield running


@pytest.fixture(scope="module")
def databases(server: PostgresServer) -> dict[str, str]:
    return {part: server.database() for part in PARTS}


def name_databases(patch: pytest.MonkeyPatch, server: PostgresServer, databases: dict[str, str]) -> None:
    for part, (variable, driver) in PARTS.items():
        patch.setenv(variable, server.url(databases[part], driver))


@pytest.fixture(scope="module")
def stack(
    server: PostgresServer,
    databases: dict[str, str],
    federation: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Endpoints]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("PREFECT_", "MLFLOW_"))]:
            patch.delenv(name)
        patch.setenv("FEDLLM_HOME", str(tmp_path_factory.mktemp("postgres") / "home"))
        name_databases(patch, server, databases)
        try:
            found = up(ports=own_ports(), config=federation)
            for name, value in found.environment().items():
                patch.setenv(name, value)
            yield found
        finally:
            down()


@pytest.fixture(scope="module")
def trained(stack: Endpoints) -> dict[str, Any]:
    """A training that any Prefect client may start, played by the worker."""
    prefect = str(Path(sys.executable).parent / "prefect")
    command = [prefect, "deployment", "run", "federated-training/test", "--watch"]
    command += ["--watch-interval", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return {"home": stack.home}


def counted(server: PostgresServer, databases: dict[str, str]) -> dict[str, int]:
    return {part: int(server.sql(query, databases[part])[0][0]) for part, query in COUNTS.items()}


def test_a_training_by_deployment_is_on_record_in_postgres_and_nowhere_else(
    trained: dict[str, Any], server: PostgresServer, databases: dict[str, str]
) -> None:
    steps = server.sql("select step from outcome where round = 2", databases["journal"])
    expected = {"dispatch", "dp-audit", "aggregate", "evaluate", "release"}
    expected |= {f"remote-local-train {site}" for site in SITES}
    assert {step for (step,) in steps} == expected
    versions = server.sql("select version from model_versions where name = 'test'", databases["mlflow"])
    assert sorted(version for (version,) in versions) == [1, 2]
    states = server.sql("select state_type::text from flow_run", databases["prefect"])
    assert ("COMPLETED",) in states
    home = trained["home"]
    assert not list(home.rglob("journal.db")) + list(home.rglob("mlflow.db")) + list(home.rglob("prefect.db"))


def test_the_databases_password_is_on_no_command_line_and_in_no_file_that_others_can_read(
    trained: dict[str, Any],
) -> None:
    home = trained["home"]
    lines = []
    for process in psutil.process_iter():
        try:
            lines.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    assert not [line for line in lines if SECRET in line]
    holders = {
        path.relative_to(home).as_posix(): path.stat().st_mode & 0o777
        for path in home.rglob("*")
        if path.is_file() and SECRET.encode() in path.read_bytes()
    }
    assert set(holders.values()) == {0o600}
    # While a flow runs, Prefect keeps its environment in a temporary file of the stack's own.
    kept = {name for name in holders if not name.startswith("stack/tmp/prefect-workspace-")}
    assert kept == {"stack/databases.json", "stack/supervisord.conf"}


def test_a_backup_of_postgres_goes_back_into_empty_databases_alone(
    trained: dict[str, Any], server: PostgresServer, databases: dict[str, str], tmp_path: Path
) -> None:
    assert trained
    archive, home = tmp_path / "b.tar", tmp_path / "second"
    made = json.loads(fedllm("backup", str(archive), "--json").stdout)
    assert set(made["postgres"]) == set(PARTS)
    before = counted(server, databases)
    filled = fedllm("restore", str(archive), "--into", str(home), check=False)
    assert filled.returncode == 1
    assert "holds tables already" in filled.stderr
    assert SECRET not in filled.stderr
    assert not home.exists()
    fresh = {part: server.database() for part in PARTS}
    with pytest.MonkeyPatch.context() as patch:
        name_databases(patch, server, fresh)
        back = json.loads(fedllm("restore", str(archive), "--into", str(home), "--json").stdout)
    assert back["objects"] == made["objects"]
    assert counted(server, fresh) == before
    query = "select head_counter from federation"
    ((then,),), ((now,),) = (server.sql(query, place["journal"]) for place in (databases, fresh))
    assert now > then

"""A real Postgres for tests: a cluster of their own on loopback, under a user without rights."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
import pytest

WITHOUT = "FEDLLM_TESTS_WITHOUT_POSTGRES"  # set it to skip what needs a Postgres


def programs() -> Path:
    """The folder of initdb and postgres; the test fails where there is none, unless it may be skipped."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if found:
        return found[-1].parent
    beside = shutil.which("postgres")
    if beside is not None:
        return Path(beside).resolve().parent
    told = "no Postgres here: apt-get install postgresql"
    if os.environ.get(WITHOUT):
        pytest.skip(told)
    pytest.fail(f"{told}, or set {WITHOUT}=1 to do without these tests")


def _nobody() -> dict[str, Any]:
    """initdb and postgres refuse to run as root."""
    if os.getuid() != 0:
        return {}
    found = pwd.getpwnam("nobody")
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}


class PostgresServer:
    """A running server, for `with`; with a password it lets nobody in without.

    Databases belong to the plain role `fedllm`, as an operator's should; `postgres` is the administrator.
    """

    def __init__(self, password: str | None = None) -> None:
        self.password = password
        self.folder = Path(tempfile.mkdtemp(prefix="fedllm-pg-", dir="/tmp"))
        self.port = 0
        self._bin = programs()
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0

    def __enter__(self) -> Self:
        secret = self.folder / "password"
        secret.write_text(self.password or "none")
        if as_nobody := _nobody():
            for path in (self.folder, secret):
                os.chown(path, as_nobody["user"], as_nobody["group"])
        command = [str(self._bin / "initdb"), "-D", str(self.folder / "data"), "-U", "postgres", "--no-sync"]
        auth = "scram-sha-256" if self.password else "trust"
        command += ["--auth", auth, "--pwfile", str(secret), "--encoding=UTF8", "--locale=C"]
        made = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=self.folder, **as_nobody
        )
        assert made.returncode == 0, made.stderr
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.start()
        self.sql(f"create role fedllm login password '{self.password or 'none'}'")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(signal.SIGQUIT)  # at once: nothing of it is kept
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start it, and return once it answers."""
        command = [str(self._bin / "postgres"), "-D", str(self.folder / "data"), "-h", "127.0.0.1"]
        command += [
            "-p",
            str(self.port),
            "-k",
            str(self.folder),
            "-c",
            "fsync=off",
            "-c",
            "max_connections=200",
        ]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True, **_nobody()
            )
        until = time.monotonic() + 240
        while True:
            try:
                self.sql("select 1")
            except psycopg.OperationalError:
                assert time.monotonic() < until, (self.folder / "server.log").read_text()[-2000:]
                time.sleep(0.05)
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it by its own process id; SIGINT is a fast shutdown, which cuts every connection off."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(120)

    def sql(self, query: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a query, as the administrator or, in a database of `database`'s, as its owner."""
        user = "postgres" if database == "postgres" else "fedllm"
        address = f"host=127.0.0.1 port={self.port} user={user} dbname={database}"
        with psycopg.connect(
            address, password=self.password, autocommit=True, connect_timeout=5
        ) as connection:
            cursor = connection.execute(query)  # type: ignore[arg-type]  # the tests' own text
            return cursor.fetchall() if cursor.description else []

    def database(self) -> str:
        """The name of a new, empty database."""
        self._databases += 1
        name = f"db{self._databases}"
        self.sql(f"create database {name} owner fedllm")
        return name

    def url(self, database: str, driver: str = "psycopg", user: str = "fedllm") -> str:
        """A database's address for SQLAlchemy, by its owner's name or another's."""
        secret = f":{self.password}" if self.password else ""
        return f"postgresql+{driver}://{user}{secret}@127.0.0.1:{self.port}/{database}"

    def cut_off(self, database: str) -> int:
        """End every connection of a database; returns how many there were."""
        theirs = f"from pg_stat_activity where datname = '{database}'"
        return len(self.sql(f"select pg_terminate_backend(pid) {theirs}"))

"""What the doctor says of what a coordinator left behind, and of its sites."""

import hashlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from fedllm.config import FederationConfig
from fedllm.coordinator.journal import Journal
from fedllm.coordinator.members import coordinator_identity, store_access
from fedllm.coordinator.release_queue import queue_release
from fedllm.coordinator.tables import LeaseRow
from fedllm.stack.checks import federation
from fedllm.stack.checks.finding import Finding
from fedllm.stack.checkup import checkup
from tests.coordinator.conftest import config, sites
from tests.coordinator.played import PlayedSite

__all__ = ("config", "sites")  # fixtures


@pytest.fixture
def journal(config: FederationConfig) -> Iterator[Journal]:
    with closing(Journal(config.name)) as opened:
        yield opened


def named(found: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in found}


def left() -> dict[str, Finding]:
    return named(federation.leftovers("played"))


def lease(journal: Journal, holder: str | None, expires: float) -> None:
    with journal.write() as session:
        session.merge(LeaseRow(federation="played", epoch=3, holder=holder, run="run-7", expires=expires))


@pytest.mark.usefixtures("sites")
def test_nothing_left_behind_is_well(config: FederationConfig) -> None:
    assert config.name == "played"
    assert {finding.status for finding in left().values()} == {"ok"}
    assert set(left()) == {"lease", "releases", "security events"}


def test_a_lease_of_a_process_that_is_gone_names_the_run_to_resume(journal: Journal) -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        started = time.time()
    lease(journal, f"{socket.gethostname()}|{process.pid}|{started:.2f}", time.time() + 30)
    assert left()["lease"].status == "warn"
    assert "--resume run-7" in left()["lease"].remedy
    lease(journal, "elsewhere|1|1.0", time.time() - 1)
    assert left()["lease"].status == "warn"


def test_a_lease_that_somebody_holds_is_no_leftover(journal: Journal) -> None:
    me = psutil.Process()
    lease(journal, f"{socket.gethostname()}|{me.pid}|{me.create_time():.2f}", time.time() + 30)
    assert (left()["lease"].status, "leads run-7" in left()["lease"].detail) == ("ok", True)
    lease(journal, None, 0.0)
    assert left()["lease"].detail == "free"


def test_releases_that_wait_for_mlflow_are_counted(journal: Journal) -> None:
    journal.begin_run("run-1", "{}")
    for number in (1, 2):
        queue_release(journal, "run-1", number, "{}")
    found = left()["releases"]
    assert (found.status, found.detail) == ("warn", "2 wait for MLflow")


def test_refusals_since_yesterday_are_told_and_older_ones_are_not(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as then:
        then.setattr("fedllm.secure.events.time.time", time.monotonic)  # 1970
        journal.security.record("quota", "clinic", "long ago", "run-0", 1)
    assert left()["security events"].status == "ok"
    for _ in range(2):
        journal.security.record("refused", "mill", "a forged signature", "run-1", 1)
    found = left()["security events"]
    assert (found.status, found.detail) == ("warn", "since yesterday: mill: refused (2 times)")
    assert "fedllm events" in found.remedy


def seen(config: FederationConfig) -> Finding:
    (found,) = federation.sites(config, store_access(config), federation.roster(config.name))
    return found


def test_live_silent_stopped_unheard_and_forged_sites_are_told_apart(
    config: FederationConfig,
    sites: dict[str, PlayedSite],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for site in sites.values():
        site.show_card()
    assert (seen(config).status, seen(config).detail) == ("ok", "all 3 are live")
    sites["movies"].show_card(state="stopped")
    nyt = sites["nyt"].mailbox.layout.card("nyt")
    sites["nyt"].store.put(nyt, sites["nyt"].store.get(nyt, limit=10**6).replace(b"payload", b"paylaod"))
    found = seen(config)
    assert (found.status, "1 of 3 are live" in found.detail) == ("warn", True)
    assert "movies: stopped since" in found.detail
    assert "nyt: its card is refused" in found.detail
    sites["nyt"].store.delete(nyt)
    assert "nyt: never heard of" in seen(config).detail
    monkeypatch.setattr("fedllm.coordinator.dispatch.FRESH", -1.0)
    assert "amazon: silent since" in seen(config).detail


def test_keys_that_others_can_read_fail_with_the_commands_that_close_them(
    config: FederationConfig,
    tmp_path: Path,
) -> None:
    coordinator_identity(config.name)
    (found,) = federation.modes(config.name)
    assert found.status == "ok"
    key = tmp_path / "home" / "coordinator" / "played" / "keys" / "sign.key"
    key.chmod(0o644)
    key.parent.chmod(0o755)
    (found,) = federation.modes(config.name)
    assert found.status == "fail"
    assert f"chmod 600 {key}" in found.remedy
    assert f"chmod 700 {key.parent}" in found.remedy


def test_a_federation_on_a_folder_is_looked_at_without_a_stack_and_nothing_changes(
    config: FederationConfig,
    sites: dict[str, PlayedSite],
    tmp_path: Path,
) -> None:
    for site in sites.values():
        site.show_card()
    before = contents(tmp_path)
    found = {finding.name: finding for finding in checkup(config)}
    assert {name for name, finding in found.items() if finding.status == "fail"} == set()
    assert found["stack"].status == "warn"  # tracking.uri is auto
    assert found["store"].status == found["sites"].status == found["journal"].status == "ok"
    assert contents(tmp_path) == before


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }

"""What the doctor says of what a coordinator left behind, and of its sites."""

import hashlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from fedllm.agent.join import init_site
from fedllm.config import FederationConfig, load_site
from fedllm.config.home import RESTORING
from fedllm.coordinator.members import StoreAccess, coordinator_identity, store_access
from fedllm.data.records import write_records
from fedllm.doctor import checkup as checkup_module
from fedllm.doctor import federation
from fedllm.doctor.checkup import checkup
from fedllm.doctor.finding import Finding, tried
from fedllm.doctor.modes import modes
from fedllm.endpoints.addresses import read_endpoints
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.endpoints.state import StackState
from fedllm.exchange.store import ObjectStore
from fedllm.journal.journal import Journal
from fedllm.journal.release_queue import queue_release
from fedllm.journal.runs import begin_run
from fedllm.journal.tables import FederationRow, LeaseRow, RunRow
from fedllm.privacy.site_ledger import site_ledger
from fedllm.secure.identity import load_identity
from fedllm.stack import down
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


@pytest.mark.servers
@pytest.mark.usefixtures("sites")
def test_nothing_left_behind_is_well(config: FederationConfig) -> None:
    assert config.name == "played"
    assert {finding.status for finding in left().values()} == {"ok"}
    assert set(left()) == {"lease", "releases", "security events"}


@pytest.mark.servers
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
    begin_run(journal, "run-1", "{}")
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


def test_what_another_federation_of_the_same_journal_met_is_not_told(journal: Journal) -> None:
    sites = [{"name": "mill", "verify": "0" * 64, "recipient": "age1"}]
    with journal.write() as session:
        for name, members in (("played", sites), ("other", [*sites, {**sites[0], "name": "clinic"}])):
            roster = json.dumps({"roster_version": 1, "sites": members})
            session.add(FederationRow(federation=name, roster=roster, head_counter=0))
        session.add(RunRow(run="theirs", federation="other", config="", status="running", started=0.0))
    journal.security.record("refused", "mill", "in another federation's run", "theirs", 1)
    journal.security.record("refused", "clinic", "no site of ours, in no run")
    assert left()["security events"].detail == "none since yesterday"
    journal.security.record("revoked", "mill", "left")
    journal.security.record("revoked", "former", "nobody's any more")
    assert left()["security events"].detail == ("since yesterday: former: revoked, mill: revoked")


def seen(config: FederationConfig) -> Finding:
    (found,) = federation.sites(config, store_access(config), federation.roster(config.name))
    return found


@pytest.mark.servers
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
    monkeypatch.setattr("fedllm.coordinator.cards.FRESH", -1.0)
    assert "amazon: silent since" in seen(config).detail


@pytest.mark.servers
def test_the_store_is_entered_once_for_all_sites(
    config: FederationConfig, sites: dict[str, PlayedSite], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(sites) == 3
    entered, connect = [], StoreAccess.connect

    def counted(access: StoreAccess) -> ObjectStore:
        entered.append(access)
        return connect(access)

    monkeypatch.setattr(StoreAccess, "connect", counted)
    assert seen(config).status == "warn"
    assert len(entered) == 1


def test_keys_that_others_can_read_fail_with_the_commands_that_close_them(
    config: FederationConfig,
    tmp_path: Path,
) -> None:
    coordinator_identity(config.name)
    (found,) = modes(config.name)
    assert found.status == "ok"
    key = tmp_path / "home" / "coordinator" / "played" / "keys" / "sign.key"
    key.chmod(0o644)
    key.parent.chmod(0o755)
    (found,) = modes(config.name)
    assert found.status == "fail"
    assert f"chmod 600 {key}" in found.remedy
    assert f"chmod 700 {key.parent}" in found.remedy


def site_of(home: Path, **settings: object) -> Path:
    """A site's folder as `site init` makes it, with a ledger."""
    home.parent.mkdir(parents=True)
    write_records(home.parent / "records.jsonl", [{"text": "text", "label": "positive"}])
    init_site(home.name, home.parent / "records.jsonl", home, base="tiny", **settings)
    with closing(site_ledger(home, load_site(home / "site.yaml"), load_identity(home / "keys"))):
        return home


def test_the_journal_the_ledgers_and_the_keys_of_this_machines_sites_must_be_closed_as_well(
    config: FederationConfig, journal: Journal, tmp_path: Path
) -> None:
    assert journal
    home = tmp_path / "home"
    (tmp_path / "shared").mkdir(mode=0o755)
    shared = tmp_path / "shared" / "ledger.db"
    simulated = site_of(home / "simulated" / "played" / "mill")
    own = site_of(home / "sites" / "clinic", ledger=str(shared))
    (found,) = modes(config.name)
    assert found.status == "ok", found
    for path, mode in (
        (home / "coordinator" / "played", 0o750),  # SQLite's journal in it has the mode that it likes
        (simulated, 0o755),
        (simulated / "ledger.db", 0o644),
        (shared, 0o640),
        (own / "keys" / "age.key", 0o604),
    ):
        before = path.stat().st_mode
        path.chmod(mode)
        for federation_name in (config.name, None):
            (found,) = modes(federation_name)
            assert (found.status, found.detail) == ("fail", f"open to others: {path}")
        path.chmod(before)


def test_a_stack_that_died_fails_and_one_that_was_ended_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FEDLLM_HOME", "FEDLLM_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    place = StackPaths.here()
    place.create()
    place.pidfile.write_text("4194305\n")  # what a supervisord that was killed leaves
    assert named(checkup())["stack"].status == "fail"
    assert down() is False
    assert named(checkup())["stack"].status == "warn"


def test_a_home_whose_restore_was_cut_off_is_told_once(config: FederationConfig, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o700, exist_ok=True)
    (tmp_path / "home" / RESTORING).touch()
    (found,) = [finding for finding in checkup(config) if finding.status != "ok"]
    assert (found.name, found.status, "is half restored" in found.detail) == ("home", "fail", True)


def test_a_damaged_file_of_database_addresses_is_a_finding_and_a_sound_one_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = StackPaths(tmp_path)
    place.create()
    stack = read_endpoints(place, StackState(ports={"minio": 1, "prefect": 1, "mlflow": 1}))
    kept = place.folder / "databases.json"

    def looked() -> dict[str, Finding]:
        return {n: tried(n, r, c)[0] for n, r, c in checkup_module._stack(stack) if n.endswith("database")}

    assert {name: found.status for name, found in looked().items()} == {
        "mlflow database": "ok",
        "prefect database": "ok",
    }
    monkeypatch.setenv("FEDLLM_MLFLOW_DATABASE_URL", "postgresql+psycopg://fedllm:hush@127.0.0.1:1/mlflow")
    assert looked()["mlflow database"].status == "fail"
    assert not kept.exists()
    monkeypatch.delenv("FEDLLM_MLFLOW_DATABASE_URL")
    place.write_private(kept, '{"mlflow": nu')
    assert (looked()["mlflow database"].status, "is damaged" in looked()["mlflow database"].detail) == (
        "fail",
        True,
    )


@pytest.mark.servers
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

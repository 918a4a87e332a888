"""What a scrape of a real coordinator and of a real site tells, held against the journal and the ledger."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry
from sqlalchemy import delete

from fedllm.agent.accounts import Accounts, open_accounts
from fedllm.agent.agent import Agent
from fedllm.agent.job import Workbench
from fedllm.agent.join import accept_invitation
from fedllm.agent.memory import Memory
from fedllm.agent.trainers import InlineTrainer
from fedllm.cli.agent import _measured
from fedllm.config import FederationConfig, PrivacyConfig
from fedllm.config.load import load_site
from fedllm.coordinator.members import coordinator_identity, roster_of, save_roster
from fedllm.errors import ConfigError, LedgerError
from fedllm.journal.facts import STEPS, WAIT, TrainingFacts
from fedllm.journal.journal import Journal
from fedllm.journal.lease import Lease
from fedllm.journal.outcomes import FailedRound, SiteOutcome
from fedllm.journal.release_queue import queue_release
from fedllm.journal.runs import begin_run, end_run
from fedllm.journal.tables import RunRow
from fedllm.metrics import sites_seen
from fedllm.metrics.coordinator import RUNS, CoordinatorMetrics
from fedllm.metrics.expose import kept_in_file, registry_of, served
from fedllm.metrics.site import SiteMetrics
from fedllm.metrics.tally import BUCKETS, Durations
from fedllm.privacy.accounting import Event, epsilon
from fedllm.secure.events import KINDS
from fedllm.secure.identity import load_identity
from tests.report.trained import PRIVATE, SITES, configuration, trained

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("metrics")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLLM_HOME", str(folder / "home"))
        yield folder


@pytest.fixture(scope="module")
def private(home: Path) -> TrainingFacts:
    """One round under DP; west wants none of it."""
    west = {"west": {"max_epsilon": 1.0}}
    rounds = {"max": 1, "deadline": "300s"}
    return trained(configuration(home, rounds=rounds, **PRIVATE), home, run="run-dp", policies=west)


@pytest.fixture
def config(private: TrainingFacts) -> FederationConfig:
    return private.config


@pytest.fixture
def journal(config: FederationConfig) -> Iterator[Journal]:
    with closing(Journal(config.name)) as opened:
        yield opened


def read(text: str) -> Samples:
    """Every sample, by name and labels; a text that Prometheus would not take raises."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} is told twice"
            found[key] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


def scraped(registry: CollectorRegistry) -> Samples:
    with served(registry, 0) as port, urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return read(answer.read().decode())


def told(config: FederationConfig, journal: Journal) -> Samples:
    return read(generate_latest(registry_of(CoordinatorMetrics(config, journal))).decode())


def test_a_scrape_tells_what_the_journal_holds(config: FederationConfig, journal: Journal) -> None:
    samples = scraped(registry_of(CoordinatorMetrics(config, journal)))
    name = config.name
    did = {s: journal.require("run-dp", 1, f"remote-local-train {s}", SiteOutcome) for s in SITES}
    up = sum(one.payload.sealed_bytes for one in did.values() if one.payload)
    assert up > 0
    assert value(samples, "fedllm_bytes_total", federation=name, direction="up") == up
    assert value(samples, "fedllm_rounds_total", federation=name, outcome="finished") == 1
    assert value(samples, "fedllm_runs", federation=name, status="completed") == 1
    assert did["west"].status == "declined"
    west = {"federation": name, "site": "west"}
    assert value(samples, "fedllm_sites_failed_total", **west, kind="declined") == 1
    assert value(samples, "fedllm_sites_counted_total", **west) == 0
    assert value(samples, "fedllm_sites_counted_total", federation=name, site="east") == 1
    assert value(samples, "fedllm_sites", federation=name) == 3
    assert value(samples, "fedllm_sites_live", federation=name) == 0  # they have said goodbye
    assert value(samples, "fedllm_store_up", federation=name) == 1
    assert value(samples, "fedllm_round", federation=name, run="run-dp") == 1


def test_epsilon_is_what_the_ledgers_add_up_to(config: FederationConfig, journal: Journal) -> None:
    samples = told(config, journal)
    place = {"federation": config.name, "run": "run-dp"}
    spent = epsilon([Event(0.2, 1.0, 3)], 1e-5)
    assert value(samples, "fedllm_epsilon_spent", **place, site="east") == pytest.approx(spent)
    assert value(samples, "fedllm_epsilon_budget", **place) == 6
    assert value(samples, "fedllm_epsilon_spent", **place, site="west") is None  # never 0


def test_under_dp_no_metric_tells_how_long_sites_trained(config: FederationConfig, journal: Journal) -> None:
    steps = {
        dict(labels)["step"] for name, labels in told(config, journal) if name == "fedllm_round_seconds_count"
    }
    assert steps == {"dispatch", "dp-audit", "aggregate", "evaluate", "release"}


def test_what_is_counted_is_born_at_zero_so_that_the_first_event_shows(
    home: Path, config: FederationConfig
) -> None:
    for name, privacy in (("new-private", config.privacy), ("new-plain", PrivacyConfig())):
        new = config.model_copy(update={"name": name, "privacy": privacy})
        with closing(Journal(name)) as empty:
            samples = told(new, empty)
        events = {dict(labels)["kind"] for metric, labels in samples if "security_events_total" in metric}
        assert events == set(KINDS)
        steps = {dict(labels)["step"] for metric, labels in samples if metric == "fedllm_round_seconds_count"}
        assert steps == set(STEPS) - ({WAIT} if privacy.on else set())
        assert {number for (metric, _), number in samples.items() if metric.endswith("_total")} == {0}
    with site_accounts(home, "east") as (memory, accounts):
        site = read(generate_latest(registry_of(SiteMetrics(memory, accounts, lambda: None))).decode())
    assert {k: value(site, "fedllm_site_security_events_total", site="east", kind=k) for k in KINDS} == (
        dict.fromkeys(KINDS, 0)
    )


@contextmanager
def running(config: FederationConfig, journal: Journal, run: str) -> Iterator[None]:
    """A training under way, under the terms of the one that is over; nothing is left of it."""
    terms = journal.commit_bytes(f"{config.name}/privacy/run-dp", lambda: b"")
    begin_run(journal, run, config.model_dump_json())
    journal.commit_bytes(f"{config.name}/privacy/{run}", lambda: terms)
    try:
        yield
    finally:
        with journal.write() as session:
            session.execute(delete(RunRow).where(RunRow.run == run))


def test_rounds_that_a_privacy_plan_does_not_pay_for_are_told_while_a_training_runs(
    config: FederationConfig, journal: Journal
) -> None:
    def unpaid(run: str) -> float | None:
        return value(told(config, journal), "fedllm_rounds_unpaid", federation=config.name, run=run)

    assert unpaid("run-dp") is None  # it is over
    with running(config, journal, "run-short"):
        assert unpaid("run-short") == 0
        journal.once("run-short", 1, "failed", FailedRound, lambda: FailedRound(reason="nobody came"))
        assert unpaid("run-short") == 1
        end_run(journal, "run-short", "completed", "")
        assert unpaid("run-short") is None


def test_the_histogram_is_one_that_prometheus_can_add_up(config: FederationConfig, journal: Journal) -> None:
    samples = told(config, journal)
    place = {"federation": config.name, "step": "evaluate"}
    edges = [*(str(edge) for edge in BUCKETS), "+Inf"]
    buckets = [value(samples, "fedllm_round_seconds_bucket", **place, le=edge) for edge in edges]
    assert buckets == sorted(buckets, key=float)  # type: ignore[arg-type]
    assert buckets[-1] == value(samples, "fedllm_round_seconds_count", **place) == 1
    took = Durations()
    for seconds in (0.1, 0.11, 7.0, 1e6):
        took.add(seconds)
    assert [count for _, count in took.cumulative] == [1, 2, 2, 2, 3, 3, 3, 3, 3, 3, 4]


def test_what_waits_and_who_leads_is_told_as_it_changes(config: FederationConfig, journal: Journal) -> None:
    name, metrics = config.name, registry_of(CoordinatorMetrics(config, journal))
    before = scraped(metrics)
    assert value(before, "fedllm_lease_held", federation=name) == 0
    assert value(before, "fedllm_releases_waiting", federation=name) == 0
    with closing(Journal(name)) as leading, Lease(leading, "run-next"):
        begin_run(leading, "run-next", config.model_dump_json())
        queue_release(leading, "run-next", 1, json.dumps({"dvc_lock_sha256": None}))
        leading.security.record("replay", "west", "number 3 is below 4", "run-next", 1)
        leading.security.record("replay", "west", "number 3 is below 4", "run-next", 1)
        during = scraped(metrics)
        end_run(leading, "run-next", "cancelled", "")
    assert value(during, "fedllm_lease_held", federation=name) == 1
    assert value(during, "fedllm_releases_waiting", federation=name) == 1
    assert value(during, "fedllm_security_events_total", federation=name, kind="replay") == 2
    assert value(during, "fedllm_runs", federation=name, status="running") == 1
    assert value(scraped(metrics), "fedllm_lease_held", federation=name) == 0


def test_labels_do_not_grow_with_runs_nor_with_sites_that_left(
    config: FederationConfig, journal: Journal
) -> None:
    for number in range(RUNS + 5):
        begin_run(journal, f"many-{number:02}", config.model_dump_json())
    roster = roster_of(journal, coordinator_identity(config.name))
    kept = tuple(site for site in roster.sites if site.name != "west")
    changed = save_roster(journal, roster, sites=kept)
    try:
        samples = told(config, journal)
    finally:
        save_roster(journal, changed, sites=roster.sites)
        with journal.write() as session:
            session.execute(delete(RunRow).where(RunRow.run.startswith("many-")))
    runs = {dict(labels)["run"] for name, labels in samples if name == "fedllm_round"}
    assert len(runs) == RUNS
    assert f"many-{RUNS + 4:02}" in runs
    sites = {dict(labels)["site"] for name, labels in samples if name == "fedllm_sites_failed_total"}
    assert sites == {"east", "north"}  # nor is there a sum of those that left, which would leap as they do


def test_a_store_that_is_away_costs_the_sites_gauges_alone(
    config: FederationConfig, journal: Journal
) -> None:
    away = config.store.model_copy(update={"url": "s3://nowhere", "endpoint": "http://127.0.0.1:9"})
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FEDLLM_ACCESS_KEY", raising=False)
        samples = told(config.model_copy(update={"store": away}), journal)
    assert value(samples, "fedllm_store_up", federation=config.name) == 0
    assert value(samples, "fedllm_sites_live", federation=config.name) is None
    assert value(samples, "fedllm_rounds_total", federation=config.name, outcome="finished") == 1


def test_a_store_that_swallows_what_it_is_sent_is_told_before_prometheus_gives_up(
    config: FederationConfig, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sites_seen.WITHIN + 2 < 10  # s: Prometheus' own limit
    monkeypatch.setattr(sites_seen, "WITHIN", 0.5)
    monkeypatch.setenv("FEDLLM_ACCESS_KEY", "site")
    monkeypatch.setenv("FEDLLM_SECRET_KEY", "secret-secret")
    with socket.create_server(("127.0.0.1", 0)) as hole:  # takes connections, and never says a word
        endpoint = f"http://127.0.0.1:{hole.getsockname()[1]}"
        away = config.store.model_copy(update={"url": "s3://nowhere", "endpoint": endpoint})
        registry = registry_of(CoordinatorMetrics(config.model_copy(update={"store": away}), journal))
        begun = time.monotonic()
        samples = [scraped(registry) for _ in range(2)]
        took = time.monotonic() - begun
        looking = [thread for thread in threading.enumerate() if thread.name == "sites-seen"]
    assert took < 10
    assert [value(one, "fedllm_store_up", federation=config.name) for one in samples] == [0, 0]
    assert value(samples[0], "fedllm_rounds_total", federation=config.name, outcome="finished") == 1
    assert len(looking) == 1  # the second scrape waited for the look that goes on


@contextmanager
def site_accounts(home: Path, site: str) -> Iterator[tuple[Memory, Accounts]]:
    folder = home / "homes" / site
    with closing(Memory(folder / "memory.db")) as memory:
        yield memory, open_accounts(load_site(folder / "site.yaml"), folder, load_identity(folder / "keys"))


def test_a_site_tells_its_owner_what_it_did_and_spent(home: Path, private: TrainingFacts) -> None:
    assert private.status == "completed"
    with site_accounts(home, "east") as (memory, accounts):
        limited = replace(accounts, limits=replace(accounts.limits, total_epsilon=10.0))
        samples = scraped(registry_of(SiteMetrics(memory, limited, lambda: 1.8e9)))
        size = json.loads(memory.work("run-dp", 1).payload or "")["sealed_bytes"]  # type: ignore[union-attr]
        spent = epsilon([Event(0.2, 1.0, 3)], limited.limits.delta)
    assert value(samples, "fedllm_site_rounds_total", site="east", outcome="sent") == 1
    assert value(samples, "fedllm_site_rounds_under_way", site="east") == 0
    assert value(samples, "fedllm_site_sent_bytes_total", site="east") == size
    assert (value(samples, "fedllm_site_training_seconds_total", site="east") or 0) > 0
    assert value(samples, "fedllm_site_last_contact_timestamp_seconds", site="east") == 1.8e9
    place = {"site": "east", "dataset": "east"}
    assert value(samples, "fedllm_site_epsilon_spent", **place) == pytest.approx(spent)
    assert value(samples, "fedllm_site_epsilon_left", **place) == pytest.approx(10 - spent)
    assert value(samples, "fedllm_site_ledger_whole", **place) == 1


def test_a_site_that_declined_has_spent_nothing_and_tells_no_epsilon(
    home: Path, private: TrainingFacts
) -> None:
    assert private.status == "completed"
    with site_accounts(home, "west") as (memory, accounts):
        samples = read(generate_latest(registry_of(SiteMetrics(memory, accounts, lambda: None))).decode())
    assert value(samples, "fedllm_site_rounds_total", site="west", outcome="declined") == 1
    assert value(samples, "fedllm_site_security_events_total", site="west", kind="policy") == 1
    assert not [name for name, _ in samples if name == "fedllm_site_epsilon_spent"]
    assert not [name for name, _ in samples if name == "fedllm_site_last_contact_timestamp_seconds"]


def test_a_broken_ledger_is_told_and_its_epsilon_is_not(home: Path, private: TrainingFacts) -> None:
    assert private.status == "completed"

    class Torn:
        def head(self, _dataset: str) -> Any:  # noqa: ANN401 - never returns
            raise LedgerError("entry 2 was changed")

    with site_accounts(home, "north") as (memory, accounts):
        torn = replace(accounts, ledger=Torn())  # type: ignore[arg-type]  # a real one is damaged in tests/privacy
        samples = read(generate_latest(registry_of(SiteMetrics(memory, torn, lambda: None))).decode())
    assert value(samples, "fedllm_site_ledger_whole", site="north", dataset="north") == 0
    assert not [name for name, _ in samples if name == "fedllm_site_epsilon_spent"]


def test_an_agent_keeps_its_metrics_where_its_owner_wants_them(
    home: Path, private: TrainingFacts, tmp_path: Path
) -> None:
    folder, path, stop = home / "homes" / "east", tmp_path / "site.prom", threading.Event()
    member = accept_invitation(folder / f"{private.config.name}.invitation", folder)
    with closing(Agent(member, InlineTrainer(Workbench(), threading.Lock()))) as agent:
        begun = time.time()
        with _measured(agent, None, path):
            before = read(path.read_text())
            threading.Timer(1.0, stop.set).start()
            agent.run(stop)
    after = read(path.read_text())
    assert value(before, "fedllm_site_rounds_total", site="east", outcome="sent") == 1
    assert value(before, "fedllm_site_last_contact_timestamp_seconds", site="east") is None
    assert (value(after, "fedllm_site_last_contact_timestamp_seconds", site="east") or 0) >= begun


def test_a_file_that_node_exporter_would_not_read_is_refused() -> None:
    with (
        pytest.raises(ConfigError, match=r"reads files named \*\.prom alone"),
        _measured(cast("Agent", None), None, Path("site.txt")),
    ):
        pass


def test_a_file_is_written_whole_and_again(
    tmp_path: Path, config: FederationConfig, journal: Journal
) -> None:
    path = tmp_path / "fedllm.prom"
    with kept_in_file(registry_of(CoordinatorMetrics(config, journal)), path, every=0.05):
        first = path.stat().st_ino
        assert value(read(path.read_text()), "fedllm_store_up", federation=config.name) == 1
        for _ in range(200):
            if path.stat().st_ino != first:
                break
            signal.sigtimedwait([], 0.05)
        assert path.stat().st_ino != first
    assert [one.name for one in tmp_path.iterdir()] == ["fedllm.prom"]


def test_a_port_that_is_taken_is_refused_in_one_line() -> None:
    registry = CollectorRegistry()
    with (
        served(registry, 0) as port,
        pytest.raises(ConfigError, match=f"cannot be served on 127.0.0.1 port {port}"),
        served(registry, port),
    ):
        pass


@pytest.mark.servers
def test_the_command_serves_on_loopback_until_it_is_told_to_stop(
    home: Path, config: FederationConfig
) -> None:
    federation = home / "clinics.yaml"
    federation.write_text(yaml.safe_dump(config.public_json()))
    command = [
        sys.executable,
        "-m",
        "fedllm",
        "metrics",
        "--config",
        str(federation),
        "--port",
        "0",
        "--json",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        address = json.loads(serving.stdout.readline())["address"]
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address) as answer:  # noqa: S310 - loopback
            samples = read(answer.read().decode())
        os.kill(serving.pid, signal.SIGTERM)
        _, said = serving.communicate(timeout=60)
    assert serving.returncode == 0, said
    assert value(samples, "fedllm_rounds_total", federation=config.name, outcome="finished") == 1


INFRA = Path(__file__).parents[2] / "infra"
BOARDS = [INFRA / "grafana" / "fedllm.json", INFRA / "grafana" / "fedllm-site.json"]


def expressions() -> dict[str, str]:
    """Every query of the dashboards and of the alerts, by where it stands."""
    found = {}
    for file in BOARDS:
        board = json.loads(file.read_text())
        found |= {f"{file.stem}: {a['name']}": a["expr"] for a in board["annotations"]["list"]}
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                label = "".join(
                    f"{{{name}}}" for name in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
                )
                found[f"{file.stem}: {panel['title']} {target['refId']} {label}"] = target["expr"]
    for group in yaml.safe_load((INFRA / "prometheus" / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            text = json.dumps(rule["annotations"])
            label = "".join(f"{{{name}}}" for name in re.findall(r"\$labels\.(\w+)", text))
            found[f"alert: {rule['alert']} {label}"] = rule["expr"]
    return found


METRIC = r"\b(?:fedllm_\w+|node_\w+|up)\b"
JOINED = ("federation", "run")
FOREIGN = {"up": {"job", "instance"}, "node_textfile_mtime_seconds": {"file", "instance"}}


def listed(labels: str) -> list[str]:
    return [label.strip() for label in labels.split(",") if label.strip()]


def wanted(query: str) -> Iterator[tuple[str, str]]:
    """Each label that a query asks of a metric: in its braces, and next to `by` and on both sides of `on`."""
    for name, braces in re.findall(rf"({METRIC})\{{([^}}]*)\}}", query):
        yield from ((name, label) for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", braces))
    for join in re.finditer(r"\b(by|on)\s*\(([^)]*)\)", query):
        near = re.findall(METRIC, query[join.end() :])[:1]
        near += re.findall(METRIC, query[: join.start()])[-1:] if join[1] == "on" else []
        yield from product(near, listed(join[2]))


@pytest.fixture
def exported(home: Path, config: FederationConfig, journal: Journal) -> dict[str, set[str]]:
    """Labels of every metric that coordinator and site tell, by its name."""
    journal.security.record("quota", "west", "too many objects", "run-dp", 1)
    with site_accounts(home, "east") as (memory, accounts):
        memory.security.record("refused", "coordinator", "not for this site", "run-dp", 1)
        limited = replace(accounts, limits=replace(accounts.limits, total_epsilon=10.0))
        site = generate_latest(registry_of(SiteMetrics(memory, limited, lambda: 1.0))).decode()
    with running(config, journal, "run-now"):
        coordinator = told(config, journal)
    found: dict[str, set[str]] = {name: set(labels) for name, labels in FOREIGN.items()}
    for name, labels in [*coordinator, *read(site)]:
        found.setdefault(name, set()).update(key for key, _ in labels)
    return found


def test_dashboard_and_alerts_name_metrics_and_labels_that_there_are(exported: dict[str, set[str]]) -> None:
    queries = expressions()
    assert len(queries) > 35
    for place, query in queries.items():
        names = re.findall(METRIC, query)
        assert names, place
        assert set(names) <= set(exported), f"{place}: {set(names) - set(exported)}"
        absent = {(name, label) for name, label in wanted(query) if label not in exported[name]}
        assert not absent, f"{place}: {absent}"
        kept = re.search(r"\bby \(([^)]*)\)", query)
        labels = set(listed(kept[1])) if kept else exported[names[0]]
        shown = set(re.findall(r"\{(\w+)\}", place))
        assert shown <= labels, f"{place}: {shown - labels}"


def test_a_label_that_only_another_metric_of_the_query_has_is_found() -> None:
    query = 'fedllm_epsilon_spent / on (federation, run) fedllm_lease_held and fedllm_round{site="east"}'
    assert set(wanted(query)) == {
        *((name, label) for name in ("fedllm_epsilon_spent", "fedllm_lease_held") for label in JOINED),
        ("fedllm_round", "site"),
    }


def test_every_metric_is_described_on_the_page_about_them(exported: dict[str, set[str]]) -> None:
    page = (INFRA.parent / "docs" / "observing.md").read_text()
    bare = {re.sub(r"_(bucket|count|sum)$", "", name) for name in exported if "round_seconds" in name}
    ours = {name for name in exported if name.startswith("fedllm_") and "round_seconds" not in name} | bare
    # A site's are told by their kind.
    assert sorted(name for name in ours if name not in page and not name.startswith("fedllm_site_")) == [
        "fedllm_build_info"
    ]


@pytest.mark.parametrize("file", BOARDS, ids=lambda file: file.stem)
def test_a_dashboard_asks_for_a_prometheus_and_no_panel_lies_on_another(file: Path) -> None:
    board = json.loads(file.read_text())
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${source}"

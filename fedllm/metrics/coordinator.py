"""The coordinator's metrics: counted anew from its journal at every scrape, so that no restart loses any.

A training's process lives for minutes and is nowhere to be scraped; what it did is in the journal. Everything
that only rises there is a counter here. Labels stay few: sites of the roster, the newest runs, fixed words.
"""

import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import func, select

from fedllm.config import FederationConfig, fedllm_home
from fedllm.journal.facts import STEPS, WAIT
from fedllm.journal.journal import Journal
from fedllm.journal.release_queue import waiting_releases
from fedllm.journal.runs import all_runs
from fedllm.journal.tables import LeaseRow, OutcomeRow
from fedllm.journal.training_facts import training_facts
from fedllm.metrics.sites_seen import CardReader
from fedllm.metrics.tally import Durations, Tally, tally
from fedllm.protocol.messages import Roster
from fedllm.secure.events import KINDS
from fedllm.tasks.metrics import METRICS

RUNS = 10  # newest ones that are told by name
GROUPS = 50  # of the public set that are told by name
STATUSES = ("running", "completed", "failed", "cancelled", "crashed")
MISSED = ("declined", "failed", "silent", "refused", "not counted")


class CoordinatorMetrics(Collector):
    """Everything that one federation's journal tells, and who of its sites is live.

    Args:
        config: the federation.
        journal: its journal; the caller closes it.
    """

    def __init__(self, config: FederationConfig, journal: Journal) -> None:
        self._config, self._journal, self._name = config, journal, config.name
        self._cards = CardReader(config, journal)
        self._kept: dict[str, tuple[tuple[int, str, float | None], Tally]] = {}
        self._lock = threading.Lock()  # two scrapes at once would count the same runs twice over

    def describe(self) -> list[Metric]:
        """Nothing: registering must not read the journal."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Count."""
        with self._lock:
            tallies = self._tallies()
            told = [
                *self._of_runs(tallies),
                *self._of_sites(tallies),
                *self._of_newest(tallies[-RUNS:]),
                *self._of_quality(tallies[-RUNS:]),
                *self._of_journal(),
            ]
        yield from told
        yield from self._of_store()  # may take a while, and needs no lock

    def _tallies(self) -> list[Tally]:
        """A tally a run, oldest first; counted again where something was added."""
        counted = select(OutcomeRow.run, func.count()).group_by(OutcomeRow.run)
        with self._journal.read() as session:
            sizes = dict(session.execute(counted).tuples().all())
        told = []
        for row in all_runs(self._journal):
            mark = (sizes.get(row.run, 0), row.status, row.finished)
            kept = self._kept.get(row.run)
            if kept is None or kept[0] != mark:
                kept = self._kept[row.run] = mark, tally(training_facts(self._journal, row.run))
            told.append(kept[1])
        return told

    def _of_runs(self, tallies: list[Tally]) -> Iterator[Metric]:
        runs = _gauge("fedllm_runs", "Trainings in the journal, by how they stand", "status")
        for status in STATUSES:
            runs.add_metric([self._name, status], sum(one.status == status for one in tallies))
        yield runs
        rounds = _counter("fedllm_rounds", "Rounds that ended, by how they did", "outcome")
        for outcome in ("finished", "failed"):
            rounds.add_metric([self._name, outcome], sum(one.rounds[outcome] for one in tallies))
        yield rounds
        seconds = HistogramMetricFamily(
            "fedllm_round_seconds",
            "Seconds of each step of a finished round; without the sites' training under DP",
            labels=["federation", "step"],
        )
        for step in STEPS:
            every = Durations()
            for one in tallies:
                if step in one.seconds:
                    every.merge(one.seconds[step])
            if step != WAIT or not self._config.privacy.on or every.rounds:
                seconds.add_metric([self._name, step], every.cumulative, every.total)
        yield seconds
        carried = _counter("fedllm_bytes", "Sealed bytes of models and updates", "direction")
        carried.add_metric([self._name, "up"], sum(one.bytes_up for one in tallies))
        carried.add_metric([self._name, "down"], sum(one.bytes_down for one in tallies))
        yield carried

    def _of_sites(self, tallies: list[Tally]) -> Iterator[Metric]:
        """Of the roster alone: names cannot grow without end.

        Nor are sites that left counted together: the sum would leap by all that a site did, once it leaves.
        """
        kept = self._journal.roster()
        names = sorted(site.name for site in Roster.model_validate_json(kept).sites) if kept else []
        ends: Counter[tuple[str, str]] = Counter()
        for one in tallies:
            for site, how in one.sites.items():
                for end, count in how.items():
                    ends[site, end] += count
        missed = _counter(
            "fedllm_sites_failed", "Rounds in which a site's update did not count", "site", "kind"
        )
        counted = _counter("fedllm_sites_counted", "Rounds in which a site's update counted", "site")
        for site in names:
            counted.add_metric([self._name, site], ends[site, "counted"])
            for kind in MISSED:
                missed.add_metric([self._name, site, kind], ends[site, kind])
        yield from (missed, counted)

    def _of_newest(self, tallies: list[Tally]) -> Iterator[Metric]:
        spent = _gauge(
            "fedllm_epsilon_spent", "Epsilon of a site in a training; absent without DP", "run", "site"
        )
        budget = _gauge("fedllm_epsilon_budget", "The most that a site may spend in a training", "run")
        unpaid = _gauge(
            "fedllm_rounds_unpaid",
            "Rounds that a running training still wants and its privacy plan does not pay for",
            "run",
        )
        begun = _gauge("fedllm_run_started_timestamp_seconds", "When a training began", "run")
        newest = _gauge("fedllm_round", "The newest finished round", "run")
        drift = _gauge("fedllm_drift_ratio", "How far the newest round moved the model", "run")
        for one in tallies:
            place = [self._name, one.run]
            for site, epsilon in sorted(one.epsilon.items()):
                spent.add_metric([*place, site], epsilon)
            for family, value in (
                (begun, one.started),
                (budget, one.budget),
                (unpaid, one.unpaid),
                (newest, one.newest),
                (drift, one.drift),
            ):
                if value is not None:
                    family.add_metric(place, value)
        yield from (spent, budget, unpaid, begun, newest, drift)

    def _of_quality(self, tallies: list[Tally]) -> Iterator[Metric]:
        """Each metric that was measured; by silo the one that counts in the newest training."""
        last = next((one for one in reversed(tallies) if one.quality), None)
        for metric in METRICS.values():
            title = metric.title
            newest = _gauge(
                f"fedllm_eval_{metric.name}", f"{title} of the newest round on the public set", "run"
            )
            zero = _gauge(f"fedllm_eval_zero_shot_{metric.name}", f"{title} before the first round", "run")
            for one in tallies:
                for family, quality in ((newest, one.quality), (zero, one.zero_shot)):
                    if quality and metric.name in quality.metrics:
                        family.add_metric([self._name, one.run], quality.metrics[metric.name])
            name = f"fedllm_eval_group_{metric.name}"
            groups = _gauge(name, "The same by silo, of the newest training", "run", "group")
            if last and last.quality and last.quality.main is metric:
                for group, value in sorted(last.quality.groups.items())[:GROUPS]:
                    groups.add_metric([self._name, last.run, group], value)
            yield from (newest, zero, groups)

    def _of_journal(self) -> Iterator[Metric]:
        waiting = _gauge("fedllm_releases_waiting", "Versions that MLflow does not have yet")
        waiting.add_metric([self._name], len(waiting_releases(self._journal)))
        runs = {row.run for row in all_runs(self._journal)}
        # A series that begins at 1 would hide its first event: `increase` sees what rises, not what is born.
        kinds: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        for event in self._journal.security.events():
            if not event.run or event.run in runs:
                kinds[event.kind] += event.times
        events = _counter("fedllm_security_events", "What was refused, by kind", "kind")
        for kind, times in sorted(kinds.items()):
            events.add_metric([self._name, kind], times)
        with self._journal.read() as session:
            lease = session.get(LeaseRow, self._name)
            held = (
                lease is not None and lease.holder is not None and lease.expires > self._journal.now(session)
            )
        leads = _gauge("fedllm_lease_held", "Whether a coordinator leads the federation")
        leads.add_metric([self._name], held)
        disk = _gauge("fedllm_disk_free_bytes", "Room on the disk of the coordinator's folder")
        disk.add_metric([self._name], shutil.disk_usage(fedllm_home().parent).free)
        built = _gauge("fedllm_build_info", "The version that tells this", "version")
        built.add_metric([self._name, version("fedllm")], 1)
        yield from (waiting, events, leads, disk, built)

    def _of_store(self) -> Iterator[Metric]:
        found = self._cards.sites()
        up = _gauge("fedllm_store_up", "Whether the store answered")
        up.add_metric([self._name], found is not None)
        sites = _gauge("fedllm_sites", "Sites of the roster")
        live = _gauge("fedllm_sites_live", "Sites whose card is fresh; absent while the store is away")
        seen = _gauge("fedllm_site_seen_timestamp_seconds", "When a site last showed its card", "site")
        if found is not None:
            sites.add_metric([self._name], len(found))
            live.add_metric([self._name], sum(one.live for one in found))
            for one in found:
                if one.at is not None:
                    seen.add_metric([self._name, one.site], one.at)
        yield from (up, sites, live, seen)


def _gauge(name: str, told: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, told, labels=["federation", *labels])


def _counter(name: str, told: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, told, labels=["federation", *labels])

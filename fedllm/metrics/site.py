"""A site's own metrics, from its memory and its ledger. They stay at the site: nothing here is sent."""

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from fedllm.agent.accounts import Accounts
from fedllm.agent.memory import Memory
from fedllm.errors import LedgerError
from fedllm.privacy.ledger_table import DatasetSpent, spent_by
from fedllm.secure.events import KINDS

OUTCOMES = ("sent", "declined", "failed")


class SiteMetrics(Collector):
    """Collect a site's rounds, bytes, refused messages and privacy budget.

    Args:
        memory: the agent's.
        accounts: its privacy accounts.
        contact: returns when the store last answered, s since 1970; None: not yet.
    """

    def __init__(self, memory: Memory, accounts: Accounts, contact: Callable[[], float | None]) -> None:
        self._memory, self._accounts, self._contact = memory, accounts, contact
        self._spent: tuple[str, DatasetSpent] | None = None  # with the ledger head that it was computed for

    def describe(self) -> list[Metric]:
        """Return nothing: registering must not read the ledger."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the current metrics."""
        counts, site = self._memory.tally(), self._accounts.site
        rounds = _counter(
            "fedllm_site_rounds", "Rounds that this site was asked for and is done with", "outcome"
        )
        for outcome, count in zip(OUTCOMES, (counts.sent, counts.declined, counts.failed), strict=True):
            rounds.add_metric([site, outcome], count)
        under_way = _gauge(
            "fedllm_site_rounds_under_way", "Rounds accepted whose update is not in the store yet"
        )
        under_way.add_metric([site], counts.under_way)
        sent = _counter("fedllm_site_sent_bytes", "Sealed bytes of updates made")
        sent.add_metric([site], counts.bytes_sent)
        promised = _counter("fedllm_site_promised_bytes", "What accepted plans may carry, down and up")
        promised.add_metric([site], counts.bytes_promised)
        trained = _counter("fedllm_site_training_seconds", "Seconds of training")
        trained.add_metric([site], counts.seconds)
        events = _counter("fedllm_site_security_events", "What this site refused, by kind", "kind")
        refused: Counter[str] = Counter(dict.fromkeys(KINDS, 0))  # every kind starts at 0
        for event in self._memory.security.events():
            refused[event.kind] += event.times
        for kind, times in sorted(refused.items()):
            events.add_metric([site, kind], times)
        yield from (rounds, under_way, sent, promised, trained, events)
        seen = _gauge("fedllm_site_last_contact_timestamp_seconds", "When the store last did its part")
        if (at := self._contact()) is not None:
            seen.add_metric([site], at)
        yield seen
        yield from self._budget(site)

    def _budget(self, site: str) -> Iterator[Metric]:
        spent = _gauge(
            "fedllm_site_epsilon_spent", "Spent or promised of a data set; absent without DP", "dataset"
        )
        budget = _gauge("fedllm_site_epsilon_budget", "What the owner allows in all", "dataset")
        left = _gauge("fedllm_site_epsilon_left", "The budget less what is spent or promised", "dataset")
        whole = _gauge("fedllm_site_ledger_whole", "Whether the ledger is unbroken", "dataset")
        place = [site, self._accounts.dataset]
        try:
            totals = self._totals()
        except LedgerError:
            whole.add_metric(place, 0)
        else:
            whole.add_metric(place, 1)
            if totals is not None:
                used = totals.epsilon if totals.epsilon_filter is None else totals.epsilon_filter
                spent.add_metric(place, used)
                if totals.epsilon_budget is not None:
                    left.add_metric(place, max(0.0, totals.epsilon_budget - used))
            if self._accounts.limits.total_epsilon is not None:
                budget.add_metric(place, self._accounts.limits.total_epsilon)
        yield from (spent, budget, left, whole)

    def _totals(self) -> DatasetSpent | None:
        """Return the ledger's totals, recomputed when it has grown; None for an empty ledger."""
        accounts = self._accounts
        head = accounts.ledger.head(accounts.dataset)
        if head is None:
            return None
        if self._spent is None or self._spent[0] != head.sha256:
            self._spent = head.sha256, spent_by(accounts.ledger, accounts.dataset, accounts.limits)
        return self._spent[1]


def _gauge(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, labels=["site", *labels])


def _counter(name: str, documentation: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, documentation, labels=["site", *labels])

"""Summarise one training in counters and newest values: small enough to keep for every run."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

from fedllm.journal.facts import Quality, TrainingFacts
from fedllm.report.site_totals import site_totals

BUCKETS = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)  # s; a last bucket holds longer ones


@dataclass
class Durations:
    """A histogram of how long a step took, over many rounds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))  # per bucket, not cumulative
    total: float = 0.0  # s

    def add(self, seconds: float) -> None:
        """Add one round."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def merge(self, other: "Durations") -> None:
        """Add another run's rounds."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    @property
    def rounds(self) -> int:
        """Return the number of rounds."""
        return sum(self.counts)

    @property
    def cumulative(self) -> list[tuple[str, float]]:
        """Return Prometheus' cumulative buckets: pairs of upper edge and count up to it."""
        buckets, total = [], 0
        for edge, count in zip([*(str(edge) for edge in BUCKETS), "+Inf"], self.counts, strict=True):
            total += count
            buckets.append((edge, float(total)))
        return buckets


@dataclass(frozen=True)
class Tally:
    """One training's numbers."""

    run: str
    status: str
    started: float  # s since 1970
    rounds: Counter[str]  # by state: finished, failed
    newest: int  # the newest finished round; 0 before the first
    seconds: dict[str, Durations]  # by step
    sites: dict[str, Counter[str]]  # how each site's rounds ended
    bytes_up: int
    bytes_down: int
    epsilon: dict[str, float]  # by site; empty without DP, or if no ledger could be checked
    budget: float | None
    unpaid: int | None  # wanted rounds that the privacy plan does not pay for; None unless it runs under DP
    quality: Quality | None  # of the newest round
    zero_shot: Quality | None
    drift: float | None  # of the newest round


def tally(facts: TrainingFacts) -> Tally:
    """Return a training's numbers."""
    seconds: dict[str, Durations] = {}
    for one in facts.rounds:
        if one.state == "finished":
            for step, duration in one.seconds.items():
                seconds.setdefault(step, Durations()).add(duration)
    totals, newest = site_totals(facts), facts.measured[-1] if facts.measured else None
    return Tally(
        run=facts.run,
        status=facts.status,
        started=facts.started,
        rounds=Counter(one.state for one in facts.rounds if one.state != "open"),
        newest=max((one.number for one in facts.rounds if one.state == "finished"), default=0),
        seconds=seconds,
        sites={one.site: one.ends for one in totals},
        bytes_up=sum(one.bytes_up for one in totals),
        bytes_down=sum(one.bytes_down for one in totals),
        epsilon={one.site: one.epsilon for one in totals if one.epsilon is not None},
        budget=facts.privacy.epsilon if facts.privacy else None,
        unpaid=_unpaid(facts),
        quality=newest.quality if newest else None,
        zero_shot=facts.zero_shot,
        drift=newest.drift if newest else None,
    )


def _unpaid(facts: TrainingFacts) -> int | None:
    """Return the unpaid rounds of a running training with DP; None of any other."""
    if facts.privacy is None or facts.status != "running":
        return None
    failed = sum(one.state == "failed" for one in facts.rounds)
    return facts.privacy.unpaid(facts.config.rounds.max, failed)

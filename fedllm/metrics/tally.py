"""One training in numbers that only rise, or that were newest: small enough to keep for every run."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

from fedllm.journal.facts import Quality, TrainingFacts
from fedllm.report.site_totals import site_totals

BUCKETS = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)  # s; the last one is without an end


@dataclass
class Durations:
    """How long a step took, over many rounds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))  # by bucket, each by itself
    total: float = 0.0  # s

    def add(self, seconds: float) -> None:
        """Count one round."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def merge(self, other: "Durations") -> None:
        """Count another run's rounds too."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    @property
    def rounds(self) -> int:
        """How many there were."""
        return sum(self.counts)

    @property
    def cumulative(self) -> list[tuple[str, float]]:
        """Buckets as Prometheus has them: each with all that were shorter."""
        told, seen = [], 0
        for edge, count in zip([*(str(edge) for edge in BUCKETS), "+Inf"], self.counts, strict=True):
            seen += count
            told.append((edge, float(seen)))
        return told


@dataclass(frozen=True)
class Tally:
    """One training."""

    run: str
    status: str
    started: float  # s since 1970
    rounds: Counter[str]  # by state: finished, failed
    newest: int  # the newest finished round; 0 before the first
    seconds: dict[str, Durations]  # by step
    sites: dict[str, Counter[str]]  # how each site's rounds ended
    bytes_up: int
    bytes_down: int
    epsilon: dict[str, float]  # by site; empty without DP, and where no ledger could be checked
    budget: float | None
    unpaid: (
        int | None
    )  # rounds wanted beyond those that the privacy plan pays for; None unless it runs under DP
    quality: Quality | None  # of the newest round
    zero_shot: Quality | None
    drift: float | None  # of the newest round


def tally(facts: TrainingFacts) -> Tally:
    """Count a training."""
    seconds: dict[str, Durations] = {}
    for one in facts.rounds:
        if one.state == "finished":
            for step, took in one.seconds.items():
                seconds.setdefault(step, Durations()).add(took)
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
    """Of a training with DP that runs."""
    if facts.privacy is None or facts.status != "running":
        return None
    failed = sum(one.state == "failed" for one in facts.rounds)
    return facts.privacy.unpaid(facts.config.rounds.max, failed)

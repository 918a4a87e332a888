"""Schedule `sync`: a cohort, a deadline, a version (McMahan et al. 2017)."""

import hashlib
import math
from collections.abc import Collection, Iterator, Sequence
from itertools import count

from fedllm.config import FederationConfig
from fedllm.journal.journal import Journal
from fedllm.journal.outcomes import Aggregated, FailedRound, Released, SiteOutcome
from fedllm.protocol.messages import Head, Plan


class Sync:
    """Rounds one after the other, each from the newest aggregate."""

    name = "sync"

    def numbers(self, journal: Journal, run: str) -> Iterator[int]:
        """Yield the rounds that are neither released nor failed; further rounds make up for failed ones."""
        for number in count(1):
            failed = journal.outcome(run, number, "failed", FailedRound) is not None
            if not failed and journal.outcome(run, number, "release", Released) is None:
                yield number

    def cohort(self, config: FederationConfig, live: Collection[str], number: int) -> tuple[str, ...]:
        """Draw the round's share of the live sites."""
        size = min(len(live), max(config.rounds.min_sites, math.ceil(config.rounds.cohort * len(live))))

        def draw(site: str) -> bytes:
            return hashlib.sha256(f"{config.seed}/{number}/{site}".encode()).digest()

        return tuple(sorted(sorted(live, key=draw)[:size]))

    def start(self, journal: Journal, run: str, number: int) -> Aggregated | None:
        """Return the newest aggregate before a round."""
        for earlier in range(number - 1, 0, -1):
            done = journal.outcome(run, earlier, "aggregate", Aggregated)
            if done is not None:
                return done
        return None

    def is_due(self, asked: Sequence[str], arrived: Sequence[SiteOutcome]) -> bool:
        """Return whether every site has an outcome; at the deadline a silent site has one too."""
        return len(arrived) == len(asked)

    def is_over(self, plan: Plan, head: Head) -> bool:
        """Return whether the head names another round, or none."""
        return head.state == "idle" or (head.run, head.round) != (plan.run, plan.round)

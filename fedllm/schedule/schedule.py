"""The contract of a schedule: when is whom asked, from which model, and when is a version due.

A plan has a number, unique in its run: round keys, uploads, clean-up and the journal's steps go by it. In
`sync` a plan is a round; a schedule that keeps a plan open for each site numbers plans as it makes them.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

from fedllm.config import FederationConfig
from fedllm.journal.journal import Journal
from fedllm.journal.outcomes import Aggregated, SiteOutcome
from fedllm.protocol.messages import Head, Plan


class Schedule(Protocol):
    """One schedule. It keeps no state: the journal holds what was done."""

    name: str

    def numbers(self, journal: Journal, run: str) -> Iterator[int]:
        """Yield the numbers of the plans still to make or to end, without end."""

    def cohort(self, config: FederationConfig, live: Collection[str], number: int) -> tuple[str, ...]:
        """Choose whom a plan asks, among the live sites; by seed and number, in the order of their names."""

    def start(self, journal: Journal, run: str, number: int) -> Aggregated | None:
        """Return the aggregate that a plan starts from; None for the adapter as it is before training."""

    def is_due(self, asked: Sequence[str], arrived: Sequence[SiteOutcome]) -> bool:
        """Say whether a version is due: nobody else is waited for."""

    def is_over(self, plan: Plan, head: Head) -> bool:
        """Say, at a site, whether a plan that it works on is over by what `head.json` shows."""

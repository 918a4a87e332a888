"""The contract of a schedule: which sites train when, from which model, and when a version is due.

A plan has a number, unique in its run: round keys, uploads, clean-up and the journal's steps use it. In
`sync` a plan is a round; a schedule that keeps one plan open per site numbers plans as it makes them.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

from fedllm.config import FederationConfig
from fedllm.journal.journal import Journal
from fedllm.journal.outcomes import Aggregated, SiteOutcome
from fedllm.protocol.messages import Head, Plan


class Schedule(Protocol):
    """One schedule. It has no state: the journal holds the outcomes."""

    name: str

    def numbers(self, journal: Journal, run: str) -> Iterator[int]:
        """Yield the numbers of the plans still to make or to end; an infinite iterator."""

    def cohort(self, config: FederationConfig, live: Collection[str], number: int) -> tuple[str, ...]:
        """Choose a plan's cohort among the live sites, by seed and number; return it sorted by name."""

    def start(self, journal: Journal, run: str, number: int) -> Aggregated | None:
        """Return the aggregate that a plan starts from; None for the initial adapter."""

    def is_due(self, asked: Sequence[str], arrived: Sequence[SiteOutcome]) -> bool:
        """Return whether a version is due, so that the coordinator stops waiting."""

    def is_over(self, plan: Plan, head: Head) -> bool:
        """Return, at a site, whether the head ends the plan that the site works on."""

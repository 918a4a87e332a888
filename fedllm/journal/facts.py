"""What a training came to, as its report and its metrics tell it.

It holds no site's counts and losses, and under DP no seconds that sites trained for either.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fedllm.config import FederationConfig
from fedllm.protocol.terms import PrivacyPlan
from fedllm.secure.events import SecurityEvent
from fedllm.tasks.metric import Metric
from fedllm.tasks.metrics import main_metric
from fedllm.training.public_answers import PublicAnswers

WAIT = "remote-local-train"  # the step in which sites train
STEPS = ("dispatch", WAIT, "dp-audit", "aggregate", "evaluate", "release")


@dataclass(frozen=True)
class SiteInRound:
    """What one site did in one round, and what was found about it."""

    site: str
    status: str  # asked, updated, declined, failed, silent, refused
    reason: str = ""  # the site's own words, or the audit's
    accepted: bool | None = None  # whether its update counts; None: the round was not closed
    epsilon: float | None = None  # spent in this training so far
    bytes_up: int = 0
    bytes_down: int = 0

    @property
    def verdict(self) -> str:
        """In a word or two, such as `counted`, `not counted` or `declined`."""
        if self.status != "updated":
            return self.status
        return {True: "counted", False: "not counted", None: "updated"}[self.accepted]


@dataclass(frozen=True)
class Quality:
    """What was measured on the coordinator's public set."""

    metrics: Mapping[str, float]  # by name, and by group as `loss/movies`
    records: int = 0  # that were measured on
    by_group: Mapping[str, int] = field(default_factory=dict)  # how many of them, by group
    metric: str | None = None  # the one that counts; None: the task's own
    answers: PublicAnswers | None = None  # to each record; None: not on record

    @property
    def main(self) -> Metric:
        """The metric that counts."""
        return main_metric(self.metrics, self.metric)

    @property
    def value(self) -> float:
        """Of that metric."""
        return self.metrics[self.main.name]

    @property
    def groups(self) -> dict[str, float]:
        """The metric that counts, by group; records without a silo are one group, which is no group."""
        start = f"{self.main.name}/"
        found = {n.removeprefix(start): v for n, v in self.metrics.items() if n.startswith(start)}
        return {} if set(found) == {"all"} else found


@dataclass(frozen=True)
class RoundFacts:
    """One round."""

    number: int
    state: Literal["finished", "failed", "open"]
    reason: str = ""  # why it failed
    sites: tuple[SiteInRound, ...] = ()
    quality: Quality | None = None
    drift: float | None = None  # ||new - old|| / ||new||
    model_sha256: str | None = None
    version: str = ""  # in MLflow's registry, or why it is not there
    seconds: Mapping[str, float] = field(default_factory=dict)  # by step; without the sites' under DP

    @property
    def epsilon(self) -> float | None:
        """The largest of its sites."""
        return max((s.epsilon for s in self.sites if s.epsilon is not None), default=None)


@dataclass(frozen=True)
class TrainingFacts:
    """One training."""

    run: str
    config: FederationConfig
    status: str  # running, completed, failed, cancelled, crashed
    reason: str
    started: float  # s since 1970
    finished: (
        float | None
    )  # s since 1970; None while it runs, and under DP, where it tells the sites' seconds
    zero_shot: Quality | None
    champion: (
        Mapping[str, float] | None
    )  # metrics of the version in use, as the newest round was held against
    rounds: tuple[RoundFacts, ...]
    privacy: PrivacyPlan | None
    security: tuple[SecurityEvent, ...] = ()
    base_sha256: str | None = None
    dvc_lock_sha256: str | None = None
    flow_runs: tuple[str, ...] = ()

    @property
    def measured(self) -> tuple[RoundFacts, ...]:
        """Rounds whose model was measured."""
        return tuple(one for one in self.rounds if one.quality is not None)

    @property
    def best(self) -> RoundFacts | None:
        """The best round by the metric that counts; of equals the first."""
        return max(self.measured, key=_score, default=None)


def _score(one: RoundFacts) -> float:
    assert one.quality is not None  # noqa: S101 - of `measured`
    return one.quality.main.score(one.quality.value)

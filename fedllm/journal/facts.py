"""The facts of a training that its report and its metrics show.

They hold no counts or losses of single sites, and under DP no training times of sites.
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
    """One site's part in a round, and the audit's verdict on it."""

    site: str
    status: str  # asked, updated, declined, failed, silent, refused
    reason: str = ""  # as given by the site, or by the audit
    accepted: bool | None = None  # whether its update counts; None: the round was not closed
    epsilon: float | None = None  # spent in this training so far
    bytes_up: int = 0
    bytes_down: int = 0

    @property
    def verdict(self) -> str:
        """Return the verdict in a word or two, such as `counted`, `not counted` or `declined`."""
        if self.status != "updated":
            return self.status
        return {True: "counted", False: "not counted", None: "updated"}[self.accepted]


@dataclass(frozen=True)
class Quality:
    """The metrics of a model on the coordinator's public set."""

    metrics: Mapping[str, float]  # by name, and by group as `loss/movies`
    records: int = 0  # evaluated
    by_group: Mapping[str, int] = field(default_factory=dict)  # records by group
    metric: str | None = None  # the main metric; None: the task's default
    answers: PublicAnswers | None = None  # for each record; None: not on record

    @property
    def main(self) -> Metric:
        """Return the main metric."""
        return main_metric(self.metrics, self.metric)

    @property
    def value(self) -> float:
        """Return the value of the main metric."""
        return self.metrics[self.main.name]

    @property
    def groups(self) -> dict[str, float]:
        """Return the main metric by group; empty if no record has a silo."""
        prefix = f"{self.main.name}/"
        groups = {n.removeprefix(prefix): v for n, v in self.metrics.items() if n.startswith(prefix)}
        return {} if set(groups) == {"all"} else groups


@dataclass(frozen=True)
class RoundFacts:
    """The facts of one round."""

    number: int
    state: Literal["finished", "failed", "open"]
    reason: str = ""  # why it failed
    sites: tuple[SiteInRound, ...] = ()
    quality: Quality | None = None
    drift: float | None = None  # ||new - old|| / ||new||
    model_sha256: str | None = None
    version: str = ""  # URI in MLflow's registry, or why it is not there
    seconds: Mapping[str, float] = field(default_factory=dict)  # by step; under DP without the sites'

    @property
    def epsilon(self) -> float | None:
        """Return the largest epsilon of the round's sites."""
        return max((s.epsilon for s in self.sites if s.epsilon is not None), default=None)


@dataclass(frozen=True)
class TrainingFacts:
    """The facts of one training."""

    run: str
    config: FederationConfig
    status: str  # running, completed, failed, cancelled, crashed
    reason: str
    started: float  # s since 1970
    finished: float | None  # s since 1970; None while it runs, and under DP: it reveals training times
    zero_shot: Quality | None
    champion: Mapping[str, float] | None  # metrics of the champion that the newest round is compared with
    rounds: tuple[RoundFacts, ...]
    privacy: PrivacyPlan | None
    security: tuple[SecurityEvent, ...] = ()
    base_sha256: str | None = None
    dvc_lock_sha256: str | None = None
    flow_runs: tuple[str, ...] = ()

    @property
    def measured(self) -> tuple[RoundFacts, ...]:
        """Return the rounds whose model was evaluated."""
        return tuple(entry for entry in self.rounds if entry.quality is not None)

    @property
    def best(self) -> RoundFacts | None:
        """Return the best round by the main metric; the first of equals."""
        return max(self.measured, key=_score, default=None)


def _score(facts: RoundFacts) -> float:
    assert facts.quality is not None  # noqa: S101 - it is one of `measured`
    return facts.quality.main.score(facts.quality.value)

"""Milestones of a training, for watchers in the same process such as the terminal's live view.

The steps report their beginning, progress and result, and do not know about terminals. Without a watcher a
report costs nothing. Logs, Prefect and the journal do not use milestones.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Milestone:
    """The base class of milestones."""


@dataclass(frozen=True)
class Preparing(Milestone):
    """A stage before the first round is under way.

    Attributes:
        stage: its name, such as `stack` or `base model`.
        detail: its current work, in a few words.
    """

    stage: str
    detail: str = ""


@dataclass(frozen=True)
class Prepared(Milestone):
    """A stage before the first round is complete; `detail` describes the result."""

    stage: str
    detail: str = ""


@dataclass(frozen=True)
class Opened(Milestone):
    """A training holds its lease; `played` of its `rounds` are done."""

    federation: str
    run: str
    rounds: int
    played: int = 0


@dataclass(frozen=True)
class Waiting(Milestone):
    """Dispatch waits for sites; an empty reason means that it no longer waits."""

    reason: str = ""


@dataclass(frozen=True)
class RoundBegun(Milestone):
    """A round's plan is published for these sites."""

    round: int
    sites: tuple[str, ...]


@dataclass(frozen=True)
class SiteStep(Milestone):
    """A site has done `step` of `steps` local steps of a round."""

    round: int
    site: str
    step: int
    steps: int


@dataclass(frozen=True)
class SiteDone(Milestone):
    """A site's part in a round is over; `status` is that of its `SiteOutcome`."""

    round: int
    site: str
    status: str
    reason: str = ""


@dataclass(frozen=True)
class Evaluating(Milestone):
    """Evaluation of a round's model (0: the base model, zero-shot) has done `done` of `records` records."""

    round: int
    done: int
    records: int


@dataclass(frozen=True)
class Measured(Milestone):
    """A round's model was evaluated: metrics by name, and the main metric (None: the task's default)."""

    round: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    metric: str | None = None


@dataclass(frozen=True)
class RoundOver(Milestone):
    """A round is over: its version is registered, or waits for MLflow (`uri` is None)."""

    round: int
    uri: str | None = None


@dataclass(frozen=True)
class Ended(Milestone):
    """A training is over."""

    status: str
    reason: str


Watcher = Callable[[Milestone], None]

_watchers: list[Watcher] = []


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Report the milestones of all threads of this process to `watcher` until the block ends."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def report(milestone: Milestone) -> None:
    """Send a milestone to the watchers; an exception in a watcher does not reach the training."""
    for watcher in tuple(_watchers):
        try:
            watcher(milestone)
        except Exception:
            log.debug("a watcher failed", exc_info=True)

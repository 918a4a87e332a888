"""Milestones of a training, for whoever watches it from the same process: the terminal's live view.

The steps report what begins, how far it is and what came of it; they know nothing of terminals. Without a
watcher a report costs nothing. Logs, Prefect and the journal have their own ways.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Milestone:
    """Something that a watcher may show."""


@dataclass(frozen=True)
class Preparing(Milestone):
    """A stage before the first round is under way.

    Attributes:
        stage: its name, such as `stack` or `base model`.
        detail: what it does now, in a few words.
    """

    stage: str
    detail: str = ""


@dataclass(frozen=True)
class Prepared(Milestone):
    """A stage before the first round is over; `detail` says what is there now."""

    stage: str
    detail: str = ""


@dataclass(frozen=True)
class Opened(Milestone):
    """A training holds its lease: rounds up to `rounds` follow those that were `played` before."""

    federation: str
    run: str
    rounds: int
    played: int = 0


@dataclass(frozen=True)
class Waiting(Milestone):
    """Dispatch waits for sites; an empty reason says that it waits no longer."""

    reason: str = ""


@dataclass(frozen=True)
class RoundBegun(Milestone):
    """A round's plan is out, for these sites."""

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
    """A round's model (0: the base model, zero-shot) has answered `done` of `records` public records."""

    round: int
    done: int
    records: int


@dataclass(frozen=True)
class Measured(Milestone):
    """A round's model was evaluated: metrics by name, and the one that counts (None: the task's own)."""

    round: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    metric: str | None = None


@dataclass(frozen=True)
class RoundOver(Milestone):
    """A round's version is registered, or waits for MLflow (`uri` is None)."""

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
    """Report every milestone of this process to `watcher`, from whatever thread, until the block ends."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def report(milestone: Milestone) -> None:
    """Tell the watchers of a milestone. One that fails costs its picture, never the training."""
    for watcher in tuple(_watchers):
        try:
            watcher(milestone)
        except Exception:
            log.debug("a watcher failed", exc_info=True)

"""What each step came to: small, JSON, kept in the journal; tensors are referred to, never held."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fedllm.protocol.entry import Entry
from fedllm.protocol.messages import Counted, Sealed, Verdict
from fedllm.training.public_answers import PublicAnswers

REFUSED = "release refused"  # the step under which a refusal is on record


class Outcome(BaseModel):
    """What a step came to."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Dispatched(Outcome):
    """A round was planned and the plan is out."""

    plan_sha256: str
    sites: tuple[str, ...]


class SiteOutcome(Outcome):
    """What one site did about a plan."""

    site: str
    status: Literal["updated", "declined", "failed", "silent", "refused"]
    reason: str = ""
    update_sha256: str | None = None  # of the signed message: pinned, a second one is equivocation
    verify: str | None = None  # the key that signed it
    payload: Sealed | None = None
    steps: int = 0
    examples: int | None = None
    loss: float | None = None
    seconds: float | None = None
    ledger: tuple[Entry, ...] = ()  # what the site says it has spent since the plan
    reply: str | None = None  # of a phase after the training, as the mode of confidentiality has it


class Audited(Outcome):
    """The round is closed: which updates count, and why others do not."""

    closed_sha256: str
    counted: tuple[Counted, ...]
    verdicts: tuple[Verdict, ...]


class Aggregated(Outcome):
    """The next global adapter."""

    model: Sealed
    sealed_for: tuple[str, ...]  # age recipients
    optimizer: Sealed | None = None
    drift: float  # ||new - old|| / ||new||


class Evaluated(Outcome):
    """Quality on the coordinator's public set: metrics by name, and each by group as `loss/movies`."""

    metrics: Mapping[str, float]
    champion: Mapping[str, float] | None = None
    records: int = 0  # that were measured on
    answers: PublicAnswers | None = None  # to each of them
    by_group: Mapping[str, int] = {}  # how many of them, by group
    # The one that counts; None: the task's own, and then absent from the JSON.
    metric: str | None = Field(default=None, exclude_if=lambda metric: metric is None)


class Released(Outcome):
    """The version is in MLflow, or waits in the queue."""

    queued: bool
    refused: str | None = None  # why MLflow does not take it; None while it is merely away
    name: str | None = None
    version: str | None = None
    uri: str | None = None


class RefusedRelease(Outcome):
    """MLflow does not take a round's version. It is kept, and offered again with every release."""

    reason: str


class FailedRound(Outcome):
    """The round could not be completed; the next one starts from the same model."""

    reason: str

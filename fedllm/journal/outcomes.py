"""The outcomes of steps: small JSON records in the journal, with references instead of tensors."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fedllm.protocol.entry import LedgerEntry
from fedllm.protocol.messages import Counted, Sealed, Verdict
from fedllm.training.public_answers import PublicAnswers

REFUSED = "release refused"  # the step name under which MLflow's refusal is recorded


class Outcome(BaseModel):
    """The outcome of a step."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Dispatched(Outcome):
    """A round's plan is published."""

    plan_sha256: str
    sites: tuple[str, ...]


class SiteOutcome(Outcome):
    """One site's outcome in a plan."""

    site: str
    status: Literal["updated", "declined", "failed", "silent", "refused"]
    reason: str = ""
    update_sha256: str | None = None  # of the signed message; a second, different one is equivocation
    verify: str | None = None  # the key that signed it
    payload: Sealed | None = None
    steps: int = 0
    examples: int | None = None
    loss: float | None = None
    seconds: float | None = None
    ledger: tuple[LedgerEntry, ...] = ()  # entries since the plan's head, as the site claims
    reply: str | None = None  # in a phase after the training; format of the confidentiality mode


class Audited(Outcome):
    """A round is closed: the updates that count, and why others do not."""

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
    """Metrics on the coordinator's public set by name, and by group with names such as `loss/movies`."""

    metrics: Mapping[str, float]
    champion: Mapping[str, float] | None = None
    records: int = 0  # evaluated
    answers: PublicAnswers | None = None  # for each record
    by_group: Mapping[str, int] = {}  # records by group
    # The main metric; None: the task's default, and then absent from the JSON.
    metric: str | None = Field(default=None, exclude_if=lambda metric: metric is None)


class Released(Outcome):
    """The version is in MLflow, or in the release queue."""

    queued: bool
    refused: str | None = None  # why MLflow refuses it; None if MLflow is only unreachable
    name: str | None = None
    version: str | None = None
    uri: str | None = None


class RefusedRelease(Outcome):
    """MLflow refuses a round's version; it is kept and offered again with every release."""

    reason: str


class FailedRound(Outcome):
    """A round failed; the next one starts from the same model."""

    reason: str

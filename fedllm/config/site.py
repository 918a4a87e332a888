"""The schema of the site file: the data and the policy of one site."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from fedllm.config.frozen import Bytes, DatasetId, Frozen, Name, Seconds
from fedllm.config.kinds import KINDS

_FINGERPRINT = re.compile(r"[a-z2-7]{4}(-[a-z2-7]{4}){7}")
LEAST_MEMORY = 512 * 2**20  # bytes; torch, transformers and the smallest model need a little less
_HOURS = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d")


def read_fingerprint(value: str) -> str:
    """Return a fingerprint if it is well formed. Raises `ValueError` with a hint otherwise."""
    if _FINGERPRINT.fullmatch(value):
        return value
    letters = re.sub(r"[^a-z2-7]", "", value.lower())
    near = "-".join(letters[i : i + 4] for i in range(0, len(letters), 4))
    hint = (
        f"did you mean {near!r}?"
        if _FINGERPRINT.fullmatch(near)
        else "write eight groups of four as `fedllm site list` shows them, such as abcd-efgh-…"
    )
    raise ValueError(f"{value!r} is no fingerprint: {hint}")


def _hours(value: str) -> str:
    begin, _, end = value.partition("-")
    if not _HOURS.fullmatch(value) or begin == end:
        raise ValueError(f"{value!r} are no hours: write begin and end, such as 22:00-06:00")
    return value


def _enough(memory: int) -> int:
    if memory < LEAST_MEMORY:
        raise ValueError(
            f"{memory} bytes are not enough for any training, whose libraries alone take about 400 MiB: "
            f"write at least {LEAST_MEMORY >> 20}MiB, such as 6GiB"
        )
    return memory


Fingerprint = Annotated[str, AfterValidator(read_fingerprint)]
Hours = Annotated[str, AfterValidator(_hours)]


class PolicyConfig(Frozen):
    """The limits that a site puts on plans. None or empty means no limit."""

    bases: tuple[str, ...] = ()  # SHA-256 fingerprints of base models that may be trained
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    methods: tuple[Literal["ffa-lora", "lora", "full"], ...] = ("ffa-lora", "lora", "full")
    codecs: tuple[Name, ...] = ()  # accepted encodings of updates; empty: all that this site supports
    max_rank: int = Field(default=64, ge=1)
    max_steps: int = Field(default=1000, ge=1)  # per round; a plan with more is accepted, with fewer steps
    max_length: int = Field(default=2048, ge=8)  # tokens per record
    max_batch_tokens: int = Field(default=2**18, ge=8)  # per step: batch_size times max_length
    max_memory: Annotated[Bytes, AfterValidator(_enough)] | None = None  # per training; 3/4 of the machine's
    max_training: Seconds = 14400.0  # s for the training of one round, also if it is retried
    min_cohort: int = Field(default=2, ge=1)  # sites per round, including this one
    peers: dict[Name, Fingerprint] = Field(default_factory=dict)  # other sites' verified fingerprints
    min_peers: int = Field(default=0, ge=0)  # how many of `peers` must be in a cohort
    hours: Hours | None = None  # working hours in local time: 22:00-06:00
    max_left_out: float = Field(default=0.1, ge=0, le=1)  # share of rows; above it no round without DP
    max_round: Seconds = 86400.0  # s
    max_bytes: int | None = Field(default=None, ge=1)  # per run, both directions
    max_seconds: Seconds | None = None  # s of training per run
    tasks: tuple[str, ...] = tuple(KINDS)
    units: tuple[Literal["none", "record", "person", "site"], ...] = ("none", "record", "person", "site")
    person: str | None = None  # the field that names a person; plans by person must use it
    max_epsilon: float | None = Field(default=None, gt=0)  # of one training
    total_epsilon: float | None = Field(default=None, gt=0)  # of `dataset_id`, over all trainings
    max_delta: float = Field(default=1e-5, gt=0, lt=0.1)  # of one training, and of total_epsilon

    @property
    def budgets(self) -> bool:
        """Return whether the policy limits the privacy budget."""
        return self.max_epsilon is not None or self.total_epsilon is not None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.min_peers > len(self.peers):
            raise ValueError(
                f"policy.min_peers is {self.min_peers}, but policy.peers names {len(self.peers)}: "
                "name their fingerprints there"
            )
        return self


class SiteConfig(Frozen):
    """The settings of one site: its name, its data and its policy."""

    name: Name
    data: Path  # JSON lines, relative to this file or absolute
    dataset_id: DatasetId | None = None  # data set whose budget is spent; default: the site's name
    ledger: Path | None = None  # default: ledger.db in this folder; several homes may share one
    base: str = "smollm2-135m"  # the base model that this site holds
    threads: int | None = Field(default=None, ge=1)  # torch threads; default: torch's own choice
    policy: PolicyConfig = PolicyConfig()
    heartbeat: Annotated[Seconds, Field(le=10)] = 10.0  # s between cards while idle; live for 35 s
    tell_count: bool = False  # publish the number of records, which no DP protects
    poll_near: Seconds = 0.3  # s between reads of head.json while a training runs
    poll_idle: Seconds = 2.0  # s otherwise

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.name in self.policy.peers:
            raise ValueError(f"policy.peers names this site itself: {self.name}; peers are the others")
        return self

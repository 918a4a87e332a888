"""The messages between coordinator and sites: signed, versioned, with run, round, sender and receiver.

A message with an unknown, missing, mistyped or out-of-range field is refused as a whole. No message carries
code, a path or a command. Lists and maps have a maximum size, and validation stops at their first error
(`fail_fast`), because each reported error costs kilobytes of memory.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedllm.config.federation import AdapterConfig, LocalConfig, Mode
from fedllm.config.frozen import DatasetId, Name
from fedllm.config.task import TaskConfig
from fedllm.protocol import entry
from fedllm.protocol.entry import LedgerEntry
from fedllm.protocol.terms import PrivacyPlan

COORDINATOR = "coordinator"
EVERYONE = "everyone"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RunId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Text = Annotated[str, Field(max_length=2000)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
FP32 = "fp32"  # the codec of a plan without `codec`
MEMBERS = 10_000  # the most sites in one message


def _is_none(value: object) -> bool:
    return value is None


def _is_sync(value: object) -> bool:
    return value == "sync"


class Message(BaseModel):
    """The fields that all messages have; each kind sets its `schema_`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)
    largest: ClassVar[int] = 256 * 1024  # bytes of the envelope

    federation: Name
    sender: Name  # a site, or `coordinator`
    receiver: Name  # a site, `coordinator`, or `everyone`
    run: RunId | None = None
    round: Count = 0
    roster_version: Count


class Sealed(BaseModel):
    """A reference to a sealed object: its key, size and hash, and those of the plaintext."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    key: Annotated[str, Field(max_length=512)]
    sealed_sha256: Sha256
    sealed_bytes: Count
    sha256: Sha256
    bytes: Count


Recipient = Annotated[str, Field(pattern=r"^age1[0-9a-z]{58}$")]  # age X25519


class PublicKeys(BaseModel):
    """One party's public keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Name
    verify: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # Ed25519, hex
    recipient: Recipient


class Roster(Message):
    """The members of the federation. The roster's version only rises."""

    largest: ClassVar[int] = 4 * 1024 * 1024
    schema_: Literal["fedllm.roster/1"] = Field(default="fedllm.roster/1", alias="schema")
    coordinator: PublicKeys
    sites: Annotated[tuple[PublicKeys, ...], Field(max_length=MEMBERS, strict=False, fail_fast=True)]


class Head(Message):
    """A pointer to the current plan. Its counter only rises, across all runs of a federation."""

    schema_: Literal["fedllm.head/1"] = Field(default="fedllm.head/1", alias="schema")
    counter: Count
    epoch: Count  # the lease's fencing epoch
    state: Literal["idle", "training"]
    plan_sha256: Sha256 | None = None  # of the plan's envelope
    # A phase after the training, in which sites get queries; absent from the JSON at other times.
    phase: Name | None = Field(default=None, exclude_if=_is_none)


class LedgerHead(entry.ChainHead):
    """The newest checked entry of a data set's ledger; a plan countersigns it."""

    dataset: DatasetId


class Plan(Message):
    """The task of one round: its sites, settings, model and deadline."""

    schema_: Literal["fedllm.plan/1"] = Field(default="fedllm.plan/1", alias="schema")
    largest: ClassVar[int] = 4 * 1024 * 1024

    epoch: Count
    rounds: Annotated[int, Field(ge=1, le=10_000)]  # of the whole training, for schedules that depend on it
    follows: Sha256 | None = None  # hash of the previous round's report
    deadline: Finite  # s since 1970 by the store's clock
    seed: Count
    sites: Annotated[tuple[Name, ...], Field(max_length=MEMBERS, strict=False, fail_fast=True)]
    # Unnormalised and public (`work`: the batch size, to be multiplied by the steps done).
    weights: Annotated[Mapping[Name, Count], Field(max_length=MEMBERS, fail_fast=True)]
    weighting: Literal["examples", "work", "equal"]
    base_sha256: Sha256
    adapter: AdapterConfig
    layout_sha256: Sha256  # of the flat tensor's names and shapes
    frozen_sha256: Sha256  # of the frozen factor A, expanded from the seed
    model: Sealed
    task: TaskConfig
    local: LocalConfig
    # The encoding of updates. fp32 is left out, so that sites of earlier releases can read the plan.
    codec: Annotated[Name, Field(exclude_if=lambda name: name == FP32)] = FP32
    most_bytes: Count  # the largest sealed update
    recipient: Recipient  # the round's own age key, which seals the updates; destroyed after the round
    confidentiality: Mode
    schedule: Name = Field(default="sync", exclude_if=_is_sync)  # absent from the JSON if `sync`
    privacy: PrivacyPlan | None = None  # None: no DP is configured
    ledgers: Annotated[
        Mapping[
            Name, Annotated[tuple[LedgerHead, ...], Field(max_length=1000, strict=False, fail_fast=True)]
        ],
        Field(max_length=MEMBERS, fail_fast=True),
    ] = {}


class Card(Message):
    """A site's heartbeat and its claims; weights by examples depend on them, privacy does not."""

    schema_: Literal["fedllm.card/1"] = Field(default="fedllm.card/1", alias="schema")
    counter: Count
    state: Literal["preparing", "idle", "training", "stopped"]  # idle: ready for a plan
    base_sha256: Sha256 | None = None
    examples: Count | None = None  # None: the site does not disclose it
    cpus: Count
    fedllm: Annotated[str, Field(max_length=40)]
    progress: "Progress | None" = None
    announced: Count = 0  # announcements of new data; without `examples` only a person makes one


class Progress(BaseModel):
    """The progress of a site's training."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    run: RunId
    round: Count
    step: Count
    steps: Count


class Answer(Message):
    """A site's decision about a plan."""

    schema_: Literal["fedllm.answer/1"] = Field(default="fedllm.answer/1", alias="schema")
    plan_sha256: Sha256
    decision: Literal["accept", "less", "decline"]
    steps: Count = 0
    reason: Text = ""


class Update(Message):
    """The result of a site's training; `failed` is the reason why it failed."""

    largest: ClassVar[int] = 4 * 1024 * 1024
    schema_: Literal["fedllm.update/1"] = Field(default="fedllm.update/1", alias="schema")
    plan_sha256: Sha256
    failed: Text | None = None
    payload: Sealed | None = None
    steps: Count = 0
    examples: Count | None = None  # records trained on, including repeats
    loss: Finite | None = None  # mean over the round; absent under DP
    seconds: Finite | None = None  # absent under DP
    ledger: Annotated[
        tuple[LedgerEntry, ...], Field(max_length=10_000, strict=False, fail_fast=True)
    ] = ()  # since the plan's head


class Query(Message):
    """A query to one site in a phase after the training, relayed through its inbox."""

    schema_: Literal["fedllm.query/1"] = Field(default="fedllm.query/1", alias="schema")
    plan_sha256: Sha256
    phase: Name
    body: Annotated[str, Field(max_length=150_000)]  # in the format of the plan's confidentiality mode


class Reply(Message):
    """A site's reply to a query."""

    schema_: Literal["fedllm.reply/1"] = Field(default="fedllm.reply/1", alias="schema")
    plan_sha256: Sha256
    phase: Name
    body: Annotated[str, Field(max_length=150_000)]


class Verdict(BaseModel):
    """The result of dp-audit for one site's update."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    site: Name
    accepted: bool
    reason: Text = ""  # why it was not accepted
    checks: Annotated[
        Mapping[Annotated[str, Field(max_length=100)], Literal["pass", "fail", "not observable"]],
        Field(max_length=100, fail_fast=True),
    ]
    privacy: Text  # `no DP configured`, or the budget spent and its limit
    epsilon: Finite | None = None  # spent in this training, recomputed from the ledger; None without DP
    ledger: LedgerHead | None = None  # the newest entry that was checked
    norm: Finite | None = None  # L2 of the update


class Counted(BaseModel):
    """An update that counts, and its weight."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    site: Name
    weight: Annotated[int, Field(ge=1)]
    payload: Sealed


class Closed(Message):
    """The updates that count, in order; they determine the aggregate bit for bit."""

    schema_: Literal["fedllm.closed/1"] = Field(default="fedllm.closed/1", alias="schema")
    largest: ClassVar[int] = 16 * 1024 * 1024

    plan_sha256: Sha256
    counted: Annotated[tuple[Counted, ...], Field(max_length=MEMBERS, strict=False, fail_fast=True)]
    verdicts: Annotated[tuple[Verdict, ...], Field(max_length=MEMBERS, strict=False, fail_fast=True)]


class Report(Message):
    """The public result of a round."""

    schema_: Literal["fedllm.report/1"] = Field(default="fedllm.report/1", alias="schema")
    closed_sha256: Sha256
    model: Sealed
    metrics: Annotated[
        Mapping[Annotated[str, Field(max_length=1000)], Finite], Field(max_length=10_000, fail_fast=True)
    ]


class Invitation(Message):
    """Address and credentials that a site needs to join; sealed for it, handed over outside the exchange."""

    schema_: Literal["fedllm.invitation/1"] = Field(default="fedllm.invitation/1", alias="schema")
    coordinator: PublicKeys
    store_url: Text
    endpoint: Text | None = None
    region: Text
    ca: Annotated[str, Field(max_length=20_000)] | None = None  # PEM: the store's certificate authority
    access_key: Text | None = None
    secret_key: Text | None = None

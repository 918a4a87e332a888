"""A coordinator that a test plays, message by message, and trainers that count or never end."""

import hashlib
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyrage

from fedllm.agent.agent import Agent
from fedllm.agent.job import Job, Workbench
from fedllm.agent.join import Membership
from fedllm.agent.trainers import InlineTrainer
from fedllm.config import AdapterConfig, FederationConfig, LocalConfig
from fedllm.coordinator.members import coordinator_identity
from fedllm.exchange.mailbox import Mailbox, seal_to_file
from fedllm.models.adapter import attach
from fedllm.models.base import load_base, resolve_base
from fedllm.models.codec import encode_flat
from fedllm.models.folder import fingerprint
from fedllm.protocol.messages import (
    COORDINATOR,
    EVERYONE,
    Answer,
    Head,
    Message,
    Plan,
    Query,
    Reply,
    Sealed,
    Update,
)
from fedllm.secure.envelope import sign
from fedllm.secure.identity import Identity

SITE = "amazon"
RUN = "run-a"
ADAPTER = AdapterConfig(rank=2, alpha=4)
SEED = 7
WIDE = AdapterConfig(  # with single gradients of many records it takes far more than honest work does
    method="lora",
    rank=256,
    targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
)
POLICY = {"max_rank": 4, "max_steps": 3, "min_cohort": 1}


@dataclass(frozen=True)
class Global:
    """The adapter that every plan starts from."""

    base_sha256: str
    layout_sha256: str
    frozen_sha256: str
    size: int
    flat: bytes


def start_of(adapter: AdapterConfig) -> Global:
    """An adapter on the base `tiny`, as it starts."""
    base = resolve_base("tiny")
    adapted = attach(load_base(base)[0], adapter, SEED)
    size, flat = adapted.layout.size, encode_flat(adapted.read())
    return Global(fingerprint(base), adapted.layout.sha256, adapted.frozen_sha256, size, flat)


class CountingTrainer(InlineTrainer):
    """An `InlineTrainer` that counts its jobs."""

    def __init__(self, bench: Workbench) -> None:
        super().__init__(bench, threading.Lock())
        self.jobs = 0

    def start(self, job: Job) -> None:
        self.jobs += 1
        super().start(job)


class EndlessTrainer:
    """A job that is under way until it is cancelled."""

    def __init__(self) -> None:
        self.jobs = self.cancelled = 0

    def start(self, job: Job) -> None:
        assert job.model.exists()
        self.jobs += 1

    def poll(self) -> None:
        return None

    def cancel(self) -> None:
        self.cancelled += 1


@dataclass
class Coordinator:
    """What the coordinator says to one site."""

    config: FederationConfig
    member: Membership
    model: Global
    folder: Path
    me: Identity = field(init=False)
    mailbox: Mailbox = field(init=False)
    round_key: Any = field(init=False)  # pyrage.x25519.Identity: updates are sealed for it
    _sealed: Sealed | None = None

    def __post_init__(self) -> None:
        self.me = coordinator_identity(self.config.name)
        self.mailbox = Mailbox(self.member.connect(), self.member.layout, self.me)
        self.round_key = pyrage.x25519.Identity.generate()

    def sealed_model(self) -> Sealed:
        """The global adapter, sealed for the site and in the store."""
        if self._sealed is None:
            path, recipients = self.folder / "model.sealed", [self.member.identity.public.recipient]
            draft = seal_to_file(self.model.flat, recipients, "unnamed", path)
            key = self.mailbox.layout.model(RUN, draft.sealed_sha256)
            self._sealed = draft.model_copy(update={"key": key})
            self.mailbox.send_payload(path, self._sealed)
        return self._sealed

    def plan(self, number: int = 1, **changes: Any) -> Plan:  # noqa: ANN401 - any field
        asked: dict[str, Any] = {
            "federation": self.config.name,
            "sender": COORDINATOR,
            "receiver": EVERYONE,
            "run": RUN,
            "round": number,
            "roster_version": 1,
            "epoch": 1,
            "rounds": 3,
            "deadline": time.time() + 600,
            "seed": SEED,
            "sites": (SITE,),
            "weights": {SITE: 1},
            "weighting": "equal",
            "base_sha256": self.model.base_sha256,
            "adapter": ADAPTER,
            "layout_sha256": self.model.layout_sha256,
            "frozen_sha256": self.model.frozen_sha256,
            "model": self.sealed_model(),
            "task": self.config.task,
            "local": LocalConfig(lr=0.02, steps=2, batch_size=2),
            "most_bytes": self.model.size * 4 + 4096,
            "recipient": str(self.round_key.to_public()),
            "confidentiality": "plain",
        }
        return Plan(**asked | changes)

    def show(self, key: str, message: Message, signer: Identity | None = None) -> str:
        """Publish a message; returns its hash."""
        envelope = sign(message, signer or self.me)
        self.mailbox.store.put(key, envelope)
        return hashlib.sha256(envelope).hexdigest()

    def show_plan(self, plan: Plan, signer: Identity | None = None) -> str:
        """Publish a plan; returns its hash."""
        return self.show(self.mailbox.layout.plan(RUN, plan.round), plan, signer)

    def ask(self, phase: str, plan_sha256: str, body: str) -> None:
        """Put a query of a phase after the training into the site's inbox."""
        query = Query(
            federation=self.config.name,
            sender=COORDINATOR,
            receiver=SITE,
            run=RUN,
            round=1,
            roster_version=1,
            plan_sha256=plan_sha256,
            phase=phase,
            body=body,
        )
        self.show(self.mailbox.layout.query(SITE, RUN, 1, phase), query)

    def reply(self, phase: str) -> bytes | None:
        """What the site replied, as its envelope."""
        key, site = self.mailbox.layout.reply(SITE, RUN, 1, phase), self.member.identity.public
        found = self.mailbox.find(key, Reply, site, run=RUN, number=1)
        return found.envelope if found else None

    def point(  # noqa: PLR0913 - what a head names
        self,
        counter: int,
        plan_sha256: str | None,
        *,
        number: int = 1,
        epoch: int = 1,
        run: str = RUN,
        phase: str | None = None,
    ) -> None:
        """Publish head.json."""
        head = Head(
            federation=self.config.name,
            sender=COORDINATOR,
            receiver=EVERYONE,
            run=run,
            round=number,
            roster_version=1,
            counter=counter,
            epoch=epoch,
            state="training" if plan_sha256 else "idle",
            plan_sha256=plan_sha256,
            phase=phase,
        )
        self.show(self.mailbox.layout.head, head)

    def answer(self, number: int = 1) -> Answer | None:
        key, site = self.mailbox.layout.answer(SITE, RUN, number), self.member.identity.public
        found = self.mailbox.find(key, Answer, site, run=RUN, number=number)
        return found.message if found else None

    def update(self, number: int = 1) -> Update | None:
        key, site = self.mailbox.layout.update(SITE, RUN, number), self.member.identity.public
        found = self.mailbox.find(key, Update, site, run=RUN, number=number)
        return found.message if found else None

    def opened(self, sealed: Sealed) -> bytes:
        """What a site sealed for the round's own key."""
        return self.mailbox.fetch_payload(sealed, opener=replace(self.me, opening=self.round_key))


def ticks(agent: Agent, count: int = 2) -> None:
    """One tick takes a plan up and trains, the next one commits and releases."""
    for _ in range(count):
        agent.tick()

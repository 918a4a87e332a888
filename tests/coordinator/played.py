"""Sites that a test plays, message by message, against a real coordinator on a folder as its store."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fedllm.coordinator.dispatch import dispatch, read_plan
from fedllm.coordinator.dp_audit import dp_audit
from fedllm.coordinator.remote_local_train import remote_local_train
from fedllm.coordinator.training import Training
from fedllm.exchange.mailbox import Mailbox, seal_to_file
from fedllm.exchange.store import ObjectStore
from fedllm.journal.outcomes import Audited, Dispatched, SiteOutcome
from fedllm.models.base import resolve_base
from fedllm.models.codec import codec_named
from fedllm.models.folder import fingerprint
from fedllm.protocol.messages import COORDINATOR, Answer, Card, Message, Plan, Sealed, Update
from fedllm.secure.envelope import sign
from fedllm.secure.identity import Identity

SITES = ("amazon", "movies", "nyt")


@dataclass(repr=False)
class PlayedSite:
    """One site's keys, and what it says when the test tells it to."""

    me: Identity
    store: ObjectStore
    mailbox: Mailbox
    folder: Path
    counter: int = field(default=0)

    @property
    def name(self) -> str:
        return self.me.name

    def show_card(self, **changes: Any) -> None:  # noqa: ANN401 - any field
        self.counter += 1
        said = {
            "federation": self.mailbox.layout.federation,
            "sender": self.name,
            "receiver": COORDINATOR,
            "roster_version": 1,
            "counter": self.counter,
            "state": "idle",
            "base_sha256": fingerprint(resolve_base("tiny")),
            "examples": 20,
            "cpus": 1,
            "fedllm": "0",
        }
        self.store.put(self.mailbox.layout.card(self.name), sign(Card(**said | changes), self.me))

    def head(self, plan: Plan) -> dict[str, Any]:
        return {
            "federation": plan.federation,
            "sender": self.name,
            "receiver": COORDINATOR,
            "run": plan.run,
            "round": plan.round,
            "roster_version": plan.roster_version,
        }

    def answer(self, plan: Plan, plan_sha256: str, **changes: Any) -> bytes:  # noqa: ANN401 - any field
        said = {
            **self.head(plan),
            "plan_sha256": plan_sha256,
            "decision": "accept",
            "steps": plan.local.steps,
        }
        return self.show(
            self.mailbox.layout.answer(self.name, plan.run or "", plan.round), Answer(**said | changes)
        )

    def payload(self, plan: Plan, data: bytes, recipient: str | None = None) -> Sealed:
        """Seal and upload whatever bytes."""
        key = self.mailbox.layout.payload(self.name, plan.run or "", plan.round)
        path = self.folder / hashlib.sha256(data).hexdigest()[:16]
        sealed = seal_to_file(data, [recipient or plan.recipient], key, path)
        self.mailbox.send_payload(path, sealed)
        return sealed

    def update(
        self,
        plan: Plan,
        plan_sha256: str,
        payload: Sealed | None,
        **changes: Any,  # noqa: ANN401 - any field
    ) -> bytes:
        said = {
            **self.head(plan),
            "plan_sha256": plan_sha256,
            "payload": payload,
            "steps": plan.local.steps,
            "examples": 8,
            "loss": 1.0,
            "seconds": 1.0,
        }
        return self.show(
            self.mailbox.layout.update(self.name, plan.run or "", plan.round), Update(**said | changes)
        )

    def show(self, key: str, message: Message) -> bytes:
        envelope = sign(message, self.me)
        self.store.put(key, envelope)
        return envelope

    def take_part(self, plan: Plan, plan_sha256: str, scale: float = 1e-4) -> None:
        """What an honest site does."""
        size = (plan.most_bytes - 64 * 1024) // codec_named(plan.codec).most_bytes(1)
        generator = torch.Generator().manual_seed(len(self.name) + plan.round)
        self.send(plan, plan_sha256, torch.randn(size, generator=generator) * scale)

    def send(self, plan: Plan, plan_sha256: str, flat: torch.Tensor) -> None:
        """Answer, and send an update as the plan's codec has it."""
        self.answer(plan, plan_sha256)
        data, _ = codec_named(plan.codec).encode(flat, None)
        self.update(plan, plan_sha256, self.payload(plan, data))


@dataclass(repr=False)
class PlayedRound:
    """One round of a real training whose sites the test plays."""

    training: Training
    sites: dict[str, PlayedSite]
    number: int
    plan: Plan
    plan_sha256: str

    def take_part(self) -> None:
        """What all sites do when they are honest."""
        for site in self.sites.values():
            site.take_part(self.plan, self.plan_sha256)

    def wait(self, name: str) -> SiteOutcome:
        return remote_local_train(self.training, self.number, name, lambda _text: None)

    def outcomes(self) -> list[SiteOutcome]:
        return [self.wait(name) for name in self.plan.sites]

    def audit(self) -> Audited:
        return dp_audit(self.training, self.number, self.outcomes())


def begin_round(training: Training, sites: dict[str, PlayedSite], number: int = 1) -> PlayedRound:
    """Dispatch a round to sites that have all just shown their cards."""
    for site in sites.values():
        site.show_card()
    done = training.journal.once(
        training.run, number, "dispatch", Dispatched, lambda: dispatch(training, number)
    )
    return PlayedRound(training, sites, number, read_plan(training, number), done.plan_sha256)

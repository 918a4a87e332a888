"""Versions to review, on MLflow's own SQLite store, and a client that dies where a test says."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyrage
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedllm.review.decision import decision_request
from fedllm.review.gates import Rules
from fedllm.review.register import Register, ReviewEvent
from fedllm.secure.identity import Identity, fingerprint
from fedllm.tracking import RoundRelease, Tracker
from fedllm.training.judged import Judged
from fedllm.training.public_answers import public_answers

RECORDS = 40
YES = decision_request(approve=True, reviewer="Ann Example", reason="reads well")
NO = decision_request(approve=False, reviewer="Ann Example", reason="reads badly")
SIGNER = Identity("coordinator", Ed25519PrivateKey.generate(), pyrage.x25519.Identity.generate())
PIN = fingerprint(SIGNER.public)
RULES = Rules(pin=PIN)
FREE = {"name": "sentiment", "privacy": {"unit": "none"}}
ROWS = [{"site": site, "weight": 1, "verdict": "accepted"} for site in ("amazon", "movies")]

WRITES = {
    "set_model_version_tag",
    "delete_model_version_tag",
    "set_registered_model_tag",
    "delete_registered_model_tag",
    "set_registered_model_alias",
    "delete_registered_model_alias",
}


class Killed(BaseException):
    """What no `except Exception` stops: the process is gone."""


@dataclass
class Mortal:
    """A client that is killed before its write number `life`, counted from 0, or before it moves an alias."""

    client: Any
    life: int
    deadly: str = ""  # this alias
    done: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - as the client's own
        method = getattr(self.client, name)
        if name not in WRITES:
            return method

        def write(*args: object, **kwargs: object) -> object:
            if len(self.done) == self.life or (self.deadly and self.deadly in args):
                raise Killed(name)
            self.done.append(name)
            return method(*args, **kwargs)

        return write


def publish(
    uri: str, make: Callable[..., RoundRelease], name: str, *right: int, folder: Path, **changes: object
) -> Register:
    """Register a version for each count of right answers among 40, each by a training of its own."""
    records = [{"text": f"text {n}"} for n in range(RECORDS)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where MLflow puts the artifacts of a store that is a file
        patch.setenv("MLFLOW_TRACKING_URI", uri)  # a server knows its own
        tracker = Tracker(uri, SIGNER)
        for number, count in enumerate(right, start=1):
            told = public_answers(
                records, [Judged(1.0, "a", "a" if n < count else "b") for n in range(RECORDS)]
            )
            assert told is not None
            fields: dict[str, Any] = {
                "run": f"run-{number}",
                "model_sha256": f"{number:064x}",
                "metrics": {"accuracy": count / RECORDS, "loss": 0.5},
                "baseline": {"accuracy": 0.5, "loss": 0.7},
                "answers": told.model_dump(mode="json"),
                "config": FREE,
                "site_rows": ROWS,
            }
            tracker.publish(make(name, **(fields | changes)))
    return Register.at(uri, name)


def reset(register: Register, **aliases: str) -> None:
    """Forget every decision, and have the aliases name these versions."""
    client = register.client
    for alias in ("champion", "previous"):
        if alias in aliases:
            client.set_registered_model_alias(register.name, alias, aliases[alias])
        elif alias in client.get_registered_model(register.name).aliases:
            client.delete_registered_model_alias(register.name, alias)
    for version in client.search_model_versions(f"name = '{register.name}'"):
        for tag in version.tags:
            if tag.startswith(("review.", "rollback.")):
                client.delete_model_version_tag(register.name, version.version, tag)
    for tag in register.model_tags():
        client.delete_registered_model_tag(register.name, tag)


def state(register: Register) -> dict[str, Any]:
    """The aliases, and every tag that a decision leaves, but for times and ids."""
    varying = {"review.record", "review.applied", "review.at", "rollback.at", "rollback.record"}
    found: dict[str, Any] = {"aliases": dict(register.client.get_registered_model(register.name).aliases)}
    for version in register.client.search_model_versions(f"name = '{register.name}'"):
        tags = {k: v for k, v in version.tags.items() if k.startswith(("review.", "rollback."))}
        found[str(version.version)] = {k: _timeless(v) for k, v in tags.items() if k not in varying}
    return found


def _timeless(text: str) -> str:
    return " ".join(word for word in text.split() if not word.startswith("20"))


class Heard(list[ReviewEvent]):
    """What was told."""

    def __call__(self, event: ReviewEvent) -> None:
        self.append(event)

    @property
    def kinds(self) -> list[str]:
        """Without their common prefix; what has one id is one event."""
        return [
            kind for kind, _ in dict.fromkeys((e.kind.removeprefix("fedllm.review."), e.id) for e in self)
        ]


def named(register: Register) -> tuple[str | None, str | None]:
    """The champion and the one before it."""
    aliases = register.aliases()
    return aliases.champion, aliases.previous


def dying(register: Register, life: int) -> Register:
    """The same register by a client that is killed before its write number `life`."""
    return replace(register, client=Mortal(register.client, life))


def by_hand(register: Register, version: str, **tags: str) -> None:
    """Set `review.` tags as a person does on MLflow's page."""
    for name, value in tags.items():
        register.client.set_model_version_tag(register.name, version, f"review.{name}", value)

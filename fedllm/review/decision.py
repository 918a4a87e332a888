"""A reviewer's decision about one version: what was said by whom, and how the version's tags tell it.

`review.record` is written by one request and holds the whole decision: from there on it is taken, and what is
left to do can be done again by whoever comes next. The other tags say the same to people.
"""

import dataclasses
import hashlib
import json
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from fedllm.errors import ReviewError

Verdict = Literal["approved", "rejected", "refused"]

RECORD = "review.record"  # JSON, the decision
APPLIED = "review.applied"  # id of the decision that was carried out last
STATUS = "review.status"  # approved or rejected: what the reviewer wants; may be set by hand
REVIEWER = "review.reviewer"  # `NAME (asserted)` or `NAME (signed FINGERPRINT)`; by hand: NAME
REASON = "review.reason"
OUTCOME = "review.outcome"  # `STATUS: what happened`
DECISION = "review.decision"  # approved, rejected or refused: what came of it
AT = "review.at"
GATES = "review.gates"  # JSON
ENVELOPE = "review.envelope"  # DSSE, when the decision was signed
KEY = "review.key"  # JSON, the public keys that it was signed with

ASSERTED = "(asserted)"
LONGEST_NAME, LONGEST_REASON = 100, 500  # characters; MLflow's tags end at 5,000, and the envelope is one


@dataclass(frozen=True)
class Said:
    """What a reviewer says."""

    approve: bool
    reviewer: str  # a bare name
    reason: str

    @property
    def status(self) -> Literal["approved", "rejected"]:
        """As `review.status` has it."""
        return "approved" if self.approve else "rejected"


def said(*, approve: bool, reviewer: str, reason: str) -> Said:
    """Check what a reviewer says.

    Raises:
        ReviewError: there is no name or no reason, one is too long, or the name imitates a signature.
    """
    name, why = (" ".join(text.split()) for text in (reviewer, reason))
    name = name.removesuffix(ASSERTED).strip()
    for what, text, most in (("reviewer", name, LONGEST_NAME), ("reason", why, LONGEST_REASON)):
        if not text:
            raise ReviewError(f"a decision needs a {what}: say who decides, and why")
        if len(text) > most:
            raise ReviewError(f"the {what} has {len(text)} characters, {most} are allowed")
        if not text.isprintable():
            raise ReviewError(f"the {what} holds characters that cannot be printed")
    if re.search(r"[()]", name):
        raise ReviewError(f"the reviewer {name!r} may hold no parentheses: they say who vouches for a name")
    return Said(approve, name, why)


@dataclass(frozen=True)
class Decision:
    """One decision, as `review.record` holds it."""

    id: str
    federation: str
    version: str
    model_sha256: str
    verdict: Verdict
    approve: bool  # what the reviewer wanted; a gate may have refused it
    replaces: str | None  # the champion at that time
    before: str | None  # what was `previous` at that time
    reviewer: str
    reason: str
    at: str  # UTC, ISO 8601
    signed: str | None = None  # fingerprint of the reviewer's keys

    @property
    def status(self) -> Literal["approved", "rejected"]:
        """What the reviewer wanted, as `review.status` has it."""
        return "approved" if self.approve else "rejected"

    @property
    def who(self) -> str:
        """The reviewer, and who vouches for the name."""
        return f"{self.reviewer} {f'(signed {self.signed})' if self.signed else ASSERTED}"

    @property
    def statement(self) -> dict[str, Any]:
        """What a reviewer signs."""
        return {
            "schema": "fedllm.decision/1",
            "id": self.id,
            "federation": self.federation,
            "version": self.version,
            "model_sha256": self.model_sha256,
            "replaces": self.replaces,
            "decision": self.status,
            "reviewer": self.reviewer,
            "reason": self.reason,
            "at": self.at,
        }

    def says_the_same(self, other: "Decision") -> bool:
        """Whether this is decided once more: the same words about the same champion, with the same result."""
        return dataclasses.replace(other, id=self.id, at=self.at, before=self.before) == self

    def to_json(self) -> str:
        """Write it as one line."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, ensure_ascii=False)


_DECISION = TypeAdapter(Decision)


def decision_on(name: str, version: str, tags: Mapping[str, str]) -> Decision | None:
    """The newest decision about a version, by its tags.

    None where there is none, none that can be read, or one about something else: MLflow copies a version
    with all its tags, and a decision about the one is none about the other.
    """
    try:
        found = _DECISION.validate_json(tags.get(RECORD, ""))
    except ValidationError:
        return None
    about = (found.federation, found.version, found.model_sha256)
    return found if about == (name, version, tags.get("model.sha256", "")) else None


def open_decision_on(name: str, version: str, tags: Mapping[str, str]) -> Decision | None:
    """The decision that was taken and not carried out to its end, if there is one."""
    found = decision_on(name, version, tags)
    return found if found is not None and tags.get(APPLIED) != found.id else None


def new_id() -> str:
    """A decision's id."""
    return uuid.uuid4().hex


def event_id(decision_id: str, kind: str) -> str:
    """The same for the same event, so that telling it twice tells it once."""
    return str(uuid.UUID(bytes=hashlib.sha256(f"{kind}\n{decision_id}".encode()).digest()[:16], version=4))


def now() -> str:
    """UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

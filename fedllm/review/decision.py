"""A reviewer's decision about one version, and the tags of the version that hold it.

One request writes `review.record`, which holds the whole decision: from then on it is taken, and any later
process can repeat the remaining steps. The other tags show the same to people.
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
APPLIED = "review.applied"  # id of the last decision that was carried out
STATUS = "review.status"  # approved or rejected: what the reviewer wants; may be set by hand
REVIEWER = "review.reviewer"  # `NAME (asserted)` or `NAME (signed FINGERPRINT)`; by hand: NAME
REASON = "review.reason"
OUTCOME = "review.outcome"  # `STATUS: what happened`
DECISION = "review.decision"  # approved, rejected or refused: the result
AT = "review.at"
GATES = "review.gates"  # JSON
ENVELOPE = "review.envelope"  # DSSE, if the decision was signed
KEY = "review.key"  # JSON, the signer's public keys

ASSERTED = "(asserted)"
LONGEST_NAME, LONGEST_REASON = 100, 500  # characters; MLflow limits a tag, such as the envelope, to 5,000


@dataclass(frozen=True)
class DecisionRequest:
    """A reviewer's request to approve or reject a version."""

    approve: bool
    reviewer: str  # a bare name
    reason: str

    @property
    def status(self) -> Literal["approved", "rejected"]:
        """Return the value of `review.status`."""
        return "approved" if self.approve else "rejected"


def decision_request(*, approve: bool, reviewer: str, reason: str) -> DecisionRequest:
    """Validate a reviewer's input.

    Raises:
        ReviewError: The name or the reason is missing or too long, or the name imitates a signature.
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
        raise ReviewError(f"the reviewer {name!r} must have no parentheses: they mark who vouches for a name")
    return DecisionRequest(approve, name, why)


@dataclass(frozen=True)
class Decision:
    """One decision, as `review.record` holds it."""

    id: str
    federation: str
    version: str
    model_sha256: str
    verdict: Verdict
    approve: bool  # as requested; a gate may have refused it
    replaces: str | None  # the champion at that time
    before: str | None  # `previous` at that time
    reviewer: str
    reason: str
    at: str  # UTC, ISO 8601
    signed: str | None = None  # fingerprint of the reviewer's keys

    @property
    def status(self) -> Literal["approved", "rejected"]:
        """Return the requested status, the value of `review.status`."""
        return "approved" if self.approve else "rejected"

    @property
    def who(self) -> str:
        """Return the reviewer, and who vouches for the name."""
        return f"{self.reviewer} {f'(signed {self.signed})' if self.signed else ASSERTED}"

    @property
    def statement(self) -> dict[str, Any]:
        """Return the object that a reviewer signs."""
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

    def repeats(self, other: "Decision") -> bool:
        """Return whether both decide the same: equal except for id, time and `before`."""
        return dataclasses.replace(other, id=self.id, at=self.at, before=self.before) == self

    def to_json(self) -> str:
        """Return the decision as one line of JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, ensure_ascii=False)


_DECISION = TypeAdapter(Decision)


def decision_on(name: str, version: str, tags: Mapping[str, str]) -> Decision | None:
    """Return the newest decision about a version, from its tags.

    Returns:
        None without a readable decision about this version. MLflow copies a version with all its tags, and a
        decision about the original does not apply to the copy.
    """
    try:
        decision = _DECISION.validate_json(tags.get(RECORD, ""))
    except ValidationError:
        return None
    subject = (decision.federation, decision.version, decision.model_sha256)
    return decision if subject == (name, version, tags.get("model.sha256", "")) else None


def unfinished_decision_on(name: str, version: str, tags: Mapping[str, str]) -> Decision | None:
    """Return the decision that was taken but not completely carried out; None if there is none."""
    decision = decision_on(name, version, tags)
    return decision if decision is not None and tags.get(APPLIED) != decision.id else None


def new_id() -> str:
    """Return a new decision's id."""
    return uuid.uuid4().hex


def event_id(decision_id: str, kind: str) -> str:
    """Return an event's id: the same for the same decision and kind, so that a repeated event counts once."""
    return str(uuid.UUID(bytes=hashlib.sha256(f"{kind}\n{decision_id}".encode()).digest()[:16], version=4))


def now() -> str:
    """Return the UTC time in ISO 8601, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

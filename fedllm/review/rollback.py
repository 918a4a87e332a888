"""Roll back to the former champion exactly once, also after crashes."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from fedllm.errors import ReviewError
from fedllm.review.decision import ASSERTED, OUTCOME, STATUS, decision_on, event_id, new_id, now
from fedllm.review.register import Register, ReviewEvent

RECORD = "rollback.record"  # JSON, a tag of the registered model: the rollback under way
KIND = "fedllm.review.rolled-back"

_READABLE = ("rollback.to", "rollback.reviewer", "rollback.reason", "rollback.at")  # of the version


@dataclass(frozen=True)
class Rollback:
    """One rollback, as `rollback.record` holds it."""

    id: str
    federation: str
    version: str  # champion until now
    to: str  # champion from now on
    then: str | None  # `previous` from now on: the version that `to` once replaced
    reviewer: str
    reason: str
    at: str  # UTC, ISO 8601

    @property
    def who(self) -> str:
        """Return the reviewer's name, marked as asserted: nobody vouches for it."""
        return f"{self.reviewer} {ASSERTED}"

    def begun(self, champion: str, previous: str | None) -> bool:
        """Return whether the aliases show this rollback before or after its first step."""
        return champion == self.version and previous in {self.to, self.then}

    @classmethod
    def open_of(cls, tags: Mapping[str, str]) -> Self | None:
        """Return the unfinished rollback from the model's tags; None if there is none."""
        try:
            return cls(**json.loads(tags.get(RECORD, "")))
        except (ValueError, TypeError):
            return None


def roll_back(
    register: Register,
    reviewer: str,
    reason: str,
    *,
    notify: Callable[[ReviewEvent], None],
    expect: str | None = None,
) -> Rollback:
    """Make `previous` the champion again, and point `previous` to the version that it had replaced, if any.

    After a crash at any point, a second call with the same reviewer and reason finishes the first rollback.
    With others it does so too, and rolls back once more if the first one's aliases had moved.

    Args:
        register: of the federation.
        reviewer: who decides; nobody vouches for the name.
        reason: why.
        notify: receives the event once the rollback is carried out.
        expect: the champion to take back; None: any.

    Returns:
        The rollback as recorded.

    Raises:
        ReviewError: There is no champion, no previous one, or the champion has changed.
        TrackingError: MLflow does not answer.
    """
    with register.locked():
        aliases = register.aliases()
        champion, previous = aliases.champion, aliases.previous
        if champion is None:
            raise ReviewError(f"{register.name} has no champion: there is nothing to roll back")
        rollback = Rollback.open_of(register.model_tags())
        if rollback is not None and (champion, previous) == (rollback.to, rollback.then):
            _end(register, rollback, notify)  # it was interrupted after the aliases had moved
            if (reviewer, reason) == (rollback.reviewer, rollback.reason):
                return rollback
            rollback = None
        elif rollback is not None and not rollback.begun(champion, previous):
            rollback = None
        if expect not in {None, rollback.version if rollback else champion}:
            raise ReviewError(
                f"the champion of {register.name} is version {champion}, not {expect}: look again"
            )
        if rollback is None:
            rollback = _new_rollback(register, champion, previous, (reviewer, reason))
            register.tag_model(RECORD, json.dumps(dataclasses.asdict(rollback)))
        _carry_out(register, rollback)
        _end(register, rollback, notify)
        return rollback


def _end(register: Register, rollback: Rollback, notify: Callable[[ReviewEvent], None]) -> None:
    """Notify of a rollback whose aliases have moved, and tag its version; removes the record last."""
    notify(_event(rollback))
    readable = dict(zip(_READABLE, (rollback.to, rollback.who, rollback.reason, rollback.at), strict=True))
    # Begin with the status: `act_on_tags` then does not take the tagged decision a second time.
    outcome = (
        f"{register.tags(rollback.version).get(STATUS, 'approved')}: rolled back to version {rollback.to}"
    )
    register.tag(rollback.version, {**readable, OUTCOME: f"{outcome} at {rollback.at}"})
    register.tag_model(RECORD, None)


def _new_rollback(
    register: Register, champion: str, previous: str | None, words: tuple[str, str]
) -> Rollback:
    if previous is None:
        raise ReviewError(f"{register.name} has no previous champion: there is nothing to roll back to")
    if previous == champion:
        raise ReviewError(
            f"a promotion over version {champion} of {register.name} was interrupted: decide again first"
        )
    former = decision_on(register.name, previous, register.tags(previous))
    then = former.replaces if former is not None and former.verdict == "approved" else None
    if then in {champion, previous} or (then is not None and not _exists(register, then)):
        then = None
    return Rollback(new_id(), register.name, champion, previous, then, *words, now())


def _exists(register: Register, version: str) -> bool:
    try:
        register.tags(version)
    except ReviewError:
        return False
    return True


def _carry_out(register: Register, rollback: Rollback) -> None:
    """Move `previous` first: then the aliases never name the same version, also after an interruption."""
    register.point_previous(rollback.then)
    register.point_champion(rollback.to)


def _event(rollback: Rollback) -> ReviewEvent:
    payload = {
        "version": rollback.version,
        "to": rollback.to,
        "reviewer": rollback.who,
        "reason": rollback.reason,
        "at": rollback.at,
    }
    return ReviewEvent(KIND, rollback.federation, event_id(rollback.id, KIND), payload)

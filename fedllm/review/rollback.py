"""Rolling back: the former champion is champion again, carried out once whatever crashes."""

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
class RolledBack:
    """One rollback, as `rollback.record` holds it."""

    id: str
    federation: str
    version: str  # champion until now
    to: str  # champion from now on
    then: str | None  # `previous` from now on: what `to` once replaced
    reviewer: str
    reason: str
    at: str  # UTC, ISO 8601

    @property
    def who(self) -> str:
        """Nobody vouches for the name."""
        return f"{self.reviewer} {ASSERTED}"

    def begun(self, champion: str, previous: str | None) -> bool:
        """Whether the aliases are as this one leaves them before the champion moves."""
        return champion == self.version and previous in {self.to, self.then}

    @classmethod
    def open_of(cls, tags: Mapping[str, str]) -> Self | None:
        """The rollback that was begun and not ended, by the tags of the model."""
        try:
            return cls(**json.loads(tags.get(RECORD, "")))
        except (ValueError, TypeError):
            return None


def roll_back(
    register: Register,
    reviewer: str,
    reason: str,
    *,
    tell: Callable[[ReviewEvent], None],
    expect: str | None = None,
) -> RolledBack:
    """Make `previous` the champion again. `previous` then names what that one had replaced, if anything.

    A second call with the same words, after a crash at whatever point, finishes the first one. Other words do
    so as well, and roll back once more if the first one's aliases had moved.

    Args:
        register: the federation's.
        reviewer: who decides; nobody vouches for the name.
        reason: why.
        tell: hears of it once it is carried out.
        expect: the champion that is to be taken back; None: whichever is.

    Raises:
        ReviewError: there is no champion, or none before it, or it is not the expected one any more.
        TrackingError: MLflow does not answer.
    """
    with register.held():
        aliases = register.aliases()
        champion, previous = aliases.champion, aliases.previous
        if champion is None:
            raise ReviewError(f"{register.name} has no champion: there is nothing to roll back")
        taken = RolledBack.open_of(register.model_tags())
        if taken is not None and (champion, previous) == (taken.to, taken.then):
            _end(register, taken, tell)  # it broke off after the aliases had moved
            if (reviewer, reason) == (taken.reviewer, taken.reason):
                return taken
            taken = None
        elif taken is not None and not taken.begun(champion, previous):
            taken = None
        if expect not in {None, taken.version if taken else champion}:
            raise ReviewError(
                f"the champion of {register.name} is version {champion}, not {expect}: look again"
            )
        if taken is None:
            taken = _taken(register, champion, previous, (reviewer, reason))
            register.tag_model(RECORD, json.dumps(dataclasses.asdict(taken)))
        _carry_out(register, taken)
        _end(register, taken, tell)
        return taken


def _end(register: Register, taken: RolledBack, tell: Callable[[ReviewEvent], None]) -> None:
    """Tell of a rollback whose aliases have moved; the record goes last."""
    tell(_event(taken))
    readable = dict(zip(_READABLE, (taken.to, taken.who, taken.reason, taken.at), strict=True))
    # As the status had it: a decision that a tag asked for is not taken a second time.
    told = f"{register.tags(taken.version).get(STATUS, 'approved')}: rolled back to version {taken.to}"
    register.tag(taken.version, {**readable, OUTCOME: f"{told} at {taken.at}"})
    register.tag_model(RECORD, None)


def _taken(register: Register, champion: str, previous: str | None, said: tuple[str, str]) -> RolledBack:
    if previous is None:
        raise ReviewError(f"{register.name} has no previous champion: there is nothing to roll back to")
    if previous == champion:
        raise ReviewError(
            f"a promotion over version {champion} of {register.name} broke off: decide on it again first"
        )
    former = decision_on(register.name, previous, register.tags(previous))
    then = former.replaces if former is not None and former.verdict == "approved" else None
    if then in {champion, previous} or (then is not None and not _is_there(register, then)):
        then = None
    return RolledBack(new_id(), register.name, champion, previous, then, *said, now())


def _is_there(register: Register, version: str) -> bool:
    try:
        register.tags(version)
    except ReviewError:
        return False
    return True


def _carry_out(register: Register, taken: RolledBack) -> None:
    """`previous` first: so the two never name one version, whenever it breaks off."""
    register.point_previous(taken.then)
    register.point_champion(taken.to)


def _event(taken: RolledBack) -> ReviewEvent:
    payload = {
        "version": taken.version,
        "to": taken.to,
        "reviewer": taken.who,
        "reason": taken.reason,
        "at": taken.at,
    }
    return ReviewEvent(KIND, taken.federation, event_id(taken.id, KIND), payload)

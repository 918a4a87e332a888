"""Decisions that people take in MLflow's own UI, by setting tags on a version."""

from collections.abc import Callable
from dataclasses import dataclass

from fedllm.errors import RecordRefusedError, ReviewError
from fedllm.review.decision import (
    APPLIED,
    OUTCOME,
    REASON,
    REVIEWER,
    STATUS,
    decision_on,
    open_decision_on,
    said,
)
from fedllm.review.gates import Rules
from fedllm.review.register import Register, ReviewEvent
from fedllm.review.review import WHOEVER, decide
from fedllm.tracking.connection import answering
from fedllm.tracking.registry import versions

WANTED = ("approved", "rejected")


@dataclass(frozen=True)
class ActedOn:
    """What came of one version's tags."""

    version: str
    status: str
    outcome: str


def act_on_tags(register: Register, rules: Rules, *, tell: Callable[[ReviewEvent], None]) -> list[ActedOn]:
    """Take every decision that stands in a version's tags and was not taken yet.

    `review.status` says which; `review.reviewer` and `review.reason` belong to it. `review.outcome` then
    begins with that status, and says what happened; as long as it does, nothing more happens. Set another
    status, with a reviewer and a reason of its own, or delete `review.outcome`, to have it looked at again.

    Raises:
        TrackingError: MLflow does not answer.
    """
    with answering(register.uri):
        found = [
            (str(version.version), dict(version.tags))
            for status in WANTED
            for version in versions(register.client, register.name, f" and tag.`{STATUS}` = '{status}'")
        ]
    return [
        _act(register, version, tags, rules, tell)
        for version, tags in sorted(found, key=lambda one: int(one[0]))
        if not tags.get(OUTCOME, "").startswith(f"{tags[STATUS]}: ")
    ]


def _act(
    register: Register,
    version: str,
    tags: dict[str, str],
    rules: Rules,
    tell: Callable[[ReviewEvent], None],
) -> ActedOn:
    status = tags[STATUS]
    if missing := [name for name in (REVIEWER, REASON) if not tags.get(name, "").strip()]:
        # Tags are set one after the other: this is no outcome yet, and the next look finds the rest.
        return _told(register, version, status, f"waits for {' and '.join(missing)}")
    if stale := _of_the_decision_before(register, version, tags):
        return _told(register, version, status, f"waits for {' and '.join(stale)} to be set anew")
    begun = open_decision_on(register.name, version, tags)
    try:
        words = said(approve=status == "approved", reviewer=tags[REVIEWER], reason=tags[REASON])
        # A decision that broke off was about one champion, and is about no other now.
        expect = begun.replaces if begun is not None else WHOEVER
        decide(register, version, words, rules, tell=tell, expect=expect)
    except RecordRefusedError as error:
        return _told(register, version, status, f"{status}: refused, {error}")
    except ReviewError as error:
        outcome = register.tags(version).get(OUTCOME, "")
        if outcome.startswith(f"{status}: "):  # a gate failed, and `decide` has said so
            return ActedOn(version, status, outcome)
        return _told(register, version, status, f"{status}: refused, {error}")
    return ActedOn(version, status, register.tags(version).get(OUTCOME, ""))


def _of_the_decision_before(register: Register, version: str, tags: dict[str, str]) -> list[str]:
    """Which words still are those of a decision that was carried out, and said the opposite.

    Whoever sets a status sets the rest a moment later; until then the tags name the former reviewer, with
    the parentheses that no name may hold.
    """
    former = decision_on(register.name, version, tags)
    if former is None or tags.get(APPLIED) != former.id or former.status == tags[STATUS]:
        return []
    old = {REVIEWER: "(" in tags[REVIEWER], REASON: tags[REASON] == former.reason}
    return [name for name, is_old in old.items() if is_old]


def _told(register: Register, version: str, status: str, outcome: str) -> ActedOn:
    with register.held():
        register.tag(version, {OUTCOME: outcome[:1000]})
    return ActedOn(version, status, outcome)

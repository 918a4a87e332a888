"""Carry out decisions that people take in MLflow's UI by setting tags on a version."""

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
    decision_request,
    unfinished_decision_on,
)
from fedllm.review.gates import Rules
from fedllm.review.register import Register, ReviewEvent
from fedllm.review.review import ANY_CHAMPION, decide
from fedllm.tracking.connection import answering
from fedllm.tracking.registry import versions

WANTED = ("approved", "rejected")


@dataclass(frozen=True)
class TagOutcome:
    """The outcome of one version's tags."""

    version: str
    status: str
    outcome: str


def act_on_tags(
    register: Register, rules: Rules, *, notify: Callable[[ReviewEvent], None]
) -> list[TagOutcome]:
    """Take every decision that versions' tags request and that was not taken yet.

    `review.status`, `review.reviewer` and `review.reason` are the request. Afterwards `review.outcome` begins
    with that status and says what happened. While it does, the request is not taken again: to repeat it, set
    another status with its own reviewer and reason, or delete `review.outcome`.

    Returns:
        The outcomes, in order of version.

    Raises:
        TrackingError: MLflow does not answer.
    """
    with answering(register.uri):
        requests = [
            (str(version.version), dict(version.tags))
            for status in WANTED
            for version in versions(register.client, register.name, f" and tag.`{STATUS}` = '{status}'")
        ]
    return [
        _act(register, version, tags, rules, notify)
        for version, tags in sorted(requests, key=lambda one: int(one[0]))
        if not tags.get(OUTCOME, "").startswith(f"{tags[STATUS]}: ")
    ]


def _act(
    register: Register,
    version: str,
    tags: dict[str, str],
    rules: Rules,
    notify: Callable[[ReviewEvent], None],
) -> TagOutcome:
    status = tags[STATUS]
    if missing := [name for name in (REVIEWER, REASON) if not tags.get(name, "").strip()]:
        # People set tags one by one: this is not the final outcome, and the next call finds the other tags.
        return _set_outcome(register, version, status, f"waits for {' and '.join(missing)}")
    if stale := _stale_tags(register, version, tags):
        return _set_outcome(register, version, status, f"waits for {' and '.join(stale)} to be set again")
    unfinished = unfinished_decision_on(register.name, version, tags)
    try:
        request = decision_request(approve=status == "approved", reviewer=tags[REVIEWER], reason=tags[REASON])
        # An unfinished decision applies only to the champion that it was about.
        expect = unfinished.replaces if unfinished is not None else ANY_CHAMPION
        decide(register, version, request, rules, notify=notify, expect=expect)
    except RecordRefusedError as error:
        return _set_outcome(register, version, status, f"{status}: refused, {error}")
    except ReviewError as error:
        outcome = register.tags(version).get(OUTCOME, "")
        if outcome.startswith(f"{status}: "):  # a gate failed, and `decide` has set the outcome
            return TagOutcome(version, status, outcome)
        return _set_outcome(register, version, status, f"{status}: refused, {error}")
    return TagOutcome(version, status, register.tags(version).get(OUTCOME, ""))


def _stale_tags(register: Register, version: str, tags: dict[str, str]) -> list[str]:
    """Return the tags that still belong to a former decision with the opposite status.

    A person sets the status first and the other tags a moment later. Until then the tags name the former
    reviewer, with the parentheses that no name may have.
    """
    former = decision_on(register.name, version, tags)
    if former is None or tags.get(APPLIED) != former.id or former.status == tags[STATUS]:
        return []
    old = {REVIEWER: "(" in tags[REVIEWER], REASON: tags[REASON] == former.reason}
    return [name for name, is_old in old.items() if is_old]


def _set_outcome(register: Register, version: str, status: str, outcome: str) -> TagOutcome:
    with register.locked():
        register.tag(version, {OUTCOME: outcome[:1000]})
    return TagOutcome(version, status, outcome)

"""Review a version: gather its facts and gates, and carry a decision out exactly once, also after crashes."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from fedllm.errors import ReviewError
from fedllm.review import decision as tagged
from fedllm.review.decision import Decision, DecisionRequest, decision_on, unfinished_decision_on
from fedllm.review.files_gate import check_files
from fedllm.review.gate import Gate
from fedllm.review.gates import VOID, Rules, first_failed, gates
from fedllm.review.register import Register, ReviewEvent
from fedllm.review.rollback import RECORD as ROLLBACK
from fedllm.review.signed_decision import reviewer_label, sign_decision
from fedllm.review.version_facts import Aliases, VersionFacts, read_version
from fedllm.secure.identity import Identity, fingerprint
from fedllm.tracking.connection import answering
from fedllm.tracking.registry import registered

Notify = Callable[[ReviewEvent], None]

ANY_CHAMPION: Final = "whoever"  # any champion may be replaced; no version has this number


@dataclass(frozen=True)
class Review:
    """The facts that a reviewer decides by."""

    version: VersionFacts
    champion: VersionFacts | None  # that the version would replace
    aliases: Aliases
    gates: tuple[Gate, ...]


@dataclass(frozen=True)
class DecisionResult:
    """The result of a decision."""

    decision: Decision
    who: str  # the reviewer, and who vouches for the name; a signature was verified
    aliases: Aliases
    gates: tuple[Gate, ...]  # empty if the decision had been carried out before


def review_version(register: Register, version: str | None, rules: Rules) -> Review:
    """Gather a version's facts and gates. Sets the tag `dp.void` if its claim of privacy does not hold.

    Args:
        register: of the federation.
        version: its number; None: the challenger.
        rules: the federation's requirements for a champion.

    Raises:
        ReviewError: There is no such version, or no challenger.
        TrackingError: MLflow does not answer.
    """
    with answering(register.uri):
        return _review(register, version, rules)


def _review(register: Register, version: str | None, rules: Rules) -> Review:
    aliases = register.aliases()
    number = version or aliases.challenger
    if number is None:
        raise ReviewError(f"{register.name} has no challenger: train first, or name a version")
    facts = read_version(register.client, register.name, number)
    entry = registered(register.client, register.name, number)
    facts = replace(facts, files=check_files(register.client, register.uri, entry, rules.pin))
    other = aliases.champion if aliases.champion != number else aliases.previous
    champion = read_version(register.client, register.name, other) if other else None
    for one in (facts, champion):
        if one is not None and one.void:
            register.tag(one.version, {"dp.void": VOID})
    return Review(facts, champion, aliases, gates(facts, champion, rules))


def decide(  # noqa: PLR0913 - what a decision is made of, each named by the caller
    register: Register,
    version: str,
    request: DecisionRequest,
    rules: Rules,
    *,
    notify: Notify,
    expect: str | None = ANY_CHAMPION,
    signer: Identity | None = None,
) -> DecisionResult:
    """Record a decision and carry it out: `previous` moves first, then `champion`.

    After a crash at any point, a second call with the same request finishes the first one's decision.
    Approving the champion changes nothing.

    Args:
        register: of the federation.
        version: the version's number.
        request: the reviewer's.
        rules: the federation's requirements for a champion.
        notify: receives the event once the decision is carried out.
        expect: the champion that the reviewer was shown (None: none).
        signer: whose keys vouch for the reviewer's name; None: the name is asserted.

    Returns:
        The decision and the aliases after it.

    Raises:
        ReviewError: A gate failed (the refusal is recorded), the champion has changed, or the champion itself
            is rejected.
        TrackingError: MLflow does not answer.
    """
    with register.locked():
        tags, aliases = register.tags(version), register.aliases()
        unfinished = unfinished_decision_on(register.name, version, tags)
        if aliases.champion == version:
            return _decide_on_champion(register, request, tags, aliases, notify)
        if expect not in {ANY_CHAMPION, aliases.champion}:
            raise ReviewError(champion_changed(register.name, expect, aliases.champion))
        signed = fingerprint(signer.public) if signer else None
        review = _review(register, version, rules)
        decision = _decision(review, request, signed, unfinished)
        if unfinished is not None and unfinished.repeats(decision):
            decision = unfinished
        else:
            _record(register, decision, review.gates, signer)
        who = _carry_out(register, decision, review.gates, notify)
        if decision.verdict == "refused" and (failed := first_failed(review.gates)):
            raise ReviewError(f"version {version} of {register.name} is not promoted: {failed.words}")
        return DecisionResult(decision, who, register.aliases(), review.gates)


def champion_changed(name: str, shown: str | None, now: str | None) -> str:
    """Return the error message for a decision that was about another champion."""
    was, is_now = (f"version {v}" if v else "none" for v in (shown, now))
    return f"the champion of {name} changed since the card was shown (it was {was}, now {is_now}): look again"


def _decide_on_champion(
    register: Register, request: DecisionRequest, tags: dict[str, str], aliases: Aliases, notify: Notify
) -> DecisionResult:
    """Finish the approval that made the version champion; change nothing else."""
    version = aliases.champion or ""
    if not request.approve:
        raise ReviewError(
            f"version {version} of {register.name} is the champion: fedllm rollback takes it back"
        )
    unfinished = unfinished_decision_on(register.name, version, tags)
    if unfinished is not None and unfinished.verdict == "approved":
        who = _carry_out(register, unfinished, (), notify)
        return DecisionResult(unfinished, who, register.aliases(), ())
    last = decision_on(register.name, version, tags)
    if last is None or last.verdict != "approved":
        raise ReviewError(f"version {version} of {register.name} is the champion already, without a review")
    return DecisionResult(last, reviewer_label(last, tags), aliases, ())


def _decision(
    review: Review, request: DecisionRequest, signed: str | None, unfinished: Decision | None
) -> Decision:
    aliases, version = review.aliases, review.version
    refused = request.approve and first_failed(review.gates) is not None
    # A promotion that stopped between the two aliases left the champion as `previous`.
    torn = unfinished is not None and aliases.previous == aliases.champion
    before = unfinished.before if unfinished is not None and torn else aliases.previous
    return Decision(
        id=tagged.new_id(),
        federation=version.name,
        version=version.version,
        model_sha256=version.model_sha256,
        verdict="refused" if refused else request.status,
        approve=request.approve,
        replaces=aliases.champion,
        before=before,
        reviewer=request.reviewer,
        reason=request.reason,
        at=tagged.now(),
        signed=signed,
    )


def _record(
    register: Register, decision: Decision, results: tuple[Gate, ...], signer: Identity | None
) -> None:
    """Take the decision: one request sets `review.record`, and from then on it is taken."""
    envelope = sign_decision(decision, signer) if signer else {tagged.ENVELOPE: None, tagged.KEY: None}
    gates_json = json.dumps({gate.name: [gate.verdict, gate.says] for gate in results}, ensure_ascii=False)
    register.tag_model(ROLLBACK, None)  # the decision supersedes an unfinished rollback
    register.tag(decision.version, {tagged.GATES: gates_json, **envelope})
    register.tag(decision.version, {tagged.RECORD: decision.to_json()})


def _carry_out(register: Register, decision: Decision, results: tuple[Gate, ...], notify: Notify) -> str:
    """Carry a recorded decision out, and return its `reviewer_label`. Every step can be repeated."""
    who = reviewer_label(decision, register.tags(decision.version))
    summary = {
        tagged.DECISION: decision.verdict,
        tagged.REVIEWER: who,
        tagged.REASON: decision.reason,
        tagged.AT: decision.at,
    }
    register.tag(decision.version, summary)
    if decision.verdict == "approved":
        _promote(register, decision)
    else:
        aliases = register.aliases()
        if aliases.previous is not None and aliases.previous == aliases.champion:
            register.point_previous(decision.before)
    notify(_event(decision, who, results))
    # The status is set after the outcome: a reader who sees the status also finds the outcome.
    outcome = f"{decision.status}: {_outcome(decision, results)}"
    register.tag(
        decision.version,
        {tagged.OUTCOME: outcome, tagged.STATUS: decision.status, tagged.APPLIED: decision.id},
    )
    return who


def _promote(register: Register, decision: Decision) -> None:
    if register.aliases().champion != decision.version:
        if decision.replaces is not None:
            register.point_previous(decision.replaces)
        register.point_champion(decision.version)
    now = register.aliases().champion
    if now != decision.version:
        raise ReviewError(f"another decision overtook this one: version {now} is champion, look again")


def _outcome(decision: Decision, results: tuple[Gate, ...]) -> str:
    if decision.verdict == "approved":
        instead = f"in the place of version {decision.replaces}" if decision.replaces else "the first one"
        return f"champion since {decision.at}, {instead}"
    if decision.verdict == "rejected":
        return f"rejected at {decision.at}"
    failed = first_failed(results)
    return f"refused at {decision.at}: {failed.words if failed else 'a gate failed'}"


def _event(decision: Decision, who: str, results: tuple[Gate, ...]) -> ReviewEvent:
    kind = f"fedllm.review.{decision.verdict}"
    payload = {
        "version": decision.version,
        "model_sha256": decision.model_sha256,
        "replaces": decision.replaces,
        "reviewer": who,
        "reason": decision.reason,
        "at": decision.at,
        "gates": {gate.name: gate.verdict for gate in results},
    }
    if decision.verdict == "refused" and (failed := first_failed(results)):
        payload["refused"] = failed.words
    return ReviewEvent(kind, decision.federation, tagged.event_id(decision.id, kind), payload)

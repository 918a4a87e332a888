"""A review: what a version is held against, and a decision about it, carried out once whatever crashes."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from fedllm.errors import ReviewError
from fedllm.review import decision as tagged
from fedllm.review.decision import Decision, Said, decision_on, open_decision_on
from fedllm.review.files_gate import check_files
from fedllm.review.gate import Gate
from fedllm.review.gates import VOID, Rules, first_failed, gates
from fedllm.review.register import Register, ReviewEvent
from fedllm.review.rollback import RECORD as ROLLBACK
from fedllm.review.signed_decision import sign_decision, vouched
from fedllm.review.version_facts import Aliases, VersionFacts, read_version
from fedllm.secure.identity import Identity, fingerprint
from fedllm.tracking.connection import answering
from fedllm.tracking.registry import registered

Tell = Callable[[ReviewEvent], None]

WHOEVER: Final = "whoever"  # any champion may be replaced; no version has such a number


@dataclass(frozen=True)
class Review:
    """What a reviewer looks at."""

    version: VersionFacts
    champion: VersionFacts | None  # that it would replace
    aliases: Aliases
    gates: tuple[Gate, ...]


@dataclass(frozen=True)
class Decided:
    """What came of a decision."""

    decision: Decision
    who: str  # the reviewer, and who vouches for the name: a signature was checked
    aliases: Aliases
    gates: tuple[Gate, ...]  # empty where the decision had been carried out before


def look(register: Register, version: str | None, rules: Rules) -> Review:
    """Gather a version's card. A version whose claim of privacy does not hold gets the tag `dp.void`.

    Args:
        register: the federation's.
        version: its number; None: the challenger.
        rules: what the federation asks of a champion.

    Raises:
        ReviewError: there is no such version, or no challenger.
        TrackingError: MLflow does not answer.
    """
    with answering(register.uri):
        return _look(register, version, rules)


def _look(register: Register, version: str | None, rules: Rules) -> Review:
    aliases = register.aliases()
    number = version or aliases.challenger
    if number is None:
        raise ReviewError(f"{register.name} has no challenger: train first, or name a version")
    facts = read_version(register.client, register.name, number)
    there = registered(register.client, register.name, number)
    facts = replace(facts, files=check_files(register.client, register.uri, there, rules.pin))
    other = aliases.champion if aliases.champion != number else aliases.previous
    against = read_version(register.client, register.name, other) if other else None
    for met in (facts, against):
        if met is not None and met.void:
            register.tag(met.version, {"dp.void": VOID})
    return Review(facts, against, aliases, gates(facts, against, rules))


def decide(  # noqa: PLR0913 - what a decision is made of, each named by the caller
    register: Register,
    version: str,
    said: Said,
    rules: Rules,
    *,
    tell: Tell,
    expect: str | None = WHOEVER,
    signer: Identity | None = None,
) -> Decided:
    """Record a decision and carry it out: `previous` first, then `champion`.

    A second call with the same words, after a crash at whatever point, finishes the first one's decision.
    Once the version is champion an approval changes nothing.

    Args:
        register: the federation's.
        version: the version's number.
        said: by the reviewer.
        rules: what the federation asks of a champion.
        tell: hears of the decision once it is carried out.
        expect: the champion that the reviewer was shown (None: none).
        signer: whose keys vouch for the reviewer's name; None: it is asserted.

    Raises:
        ReviewError: a gate failed (that is on record), the champion is not the expected one any more, or the
            champion itself is rejected.
        TrackingError: MLflow does not answer.
    """
    with register.held():
        tags, aliases = register.tags(version), register.aliases()
        open_one = open_decision_on(register.name, version, tags)
        if aliases.champion == version:
            return _of_the_champion(register, said, tags, aliases, tell)
        if expect not in {WHOEVER, aliases.champion}:
            raise ReviewError(changed(register.name, expect, aliases.champion))
        mark = fingerprint(signer.public) if signer else None
        found = _look(register, version, rules)
        taken = _taken(found, said, mark, open_one)
        if open_one is not None and open_one.says_the_same(taken):
            taken = open_one
        else:
            _record(register, taken, found.gates, signer)
        who = _carry_out(register, taken, found.gates, tell)
        if taken.verdict == "refused" and (failed := first_failed(found.gates)):
            raise ReviewError(f"version {version} of {register.name} is not promoted: {failed.words}")
        return Decided(taken, who, register.aliases(), found.gates)


def changed(name: str, shown: str | None, now: str | None) -> str:
    """Why a decision is void: it was about another champion."""
    was, is_now = (f"version {v}" if v else "none" for v in (shown, now))
    return f"the champion of {name} changed since the card was shown (it was {was}, now {is_now}): look again"


def _of_the_champion(
    register: Register, said: Said, tags: dict[str, str], aliases: Aliases, tell: Tell
) -> Decided:
    """The version is champion already: finish what made it so, change nothing else."""
    version = aliases.champion or ""
    if not said.approve:
        raise ReviewError(
            f"version {version} of {register.name} is the champion: fedllm rollback takes it back"
        )
    open_one = open_decision_on(register.name, version, tags)
    if open_one is not None and open_one.verdict == "approved":
        who = _carry_out(register, open_one, (), tell)
        return Decided(open_one, who, register.aliases(), ())
    last = decision_on(register.name, version, tags)
    if last is None or last.verdict != "approved":
        raise ReviewError(f"version {version} of {register.name} is the champion already, without a review")
    return Decided(last, vouched(last, tags), aliases, ())


def _taken(found: Review, said: Said, mark: str | None, open_one: Decision | None) -> Decision:
    aliases, version = found.aliases, found.version
    refused = said.approve and first_failed(found.gates) is not None
    # A promotion that broke off between the two aliases left the champion as `previous`.
    torn = open_one is not None and aliases.previous == aliases.champion
    before = open_one.before if open_one is not None and torn else aliases.previous
    return Decision(
        id=tagged.new_id(),
        federation=version.name,
        version=version.version,
        model_sha256=version.model_sha256,
        verdict="refused" if refused else said.status,
        approve=said.approve,
        replaces=aliases.champion,
        before=before,
        reviewer=said.reviewer,
        reason=said.reason,
        at=tagged.now(),
        signed=mark,
    )


def _record(register: Register, taken: Decision, found: tuple[Gate, ...], signer: Identity | None) -> None:
    """Take the decision: with `review.record`, which one request sets, it is taken."""
    envelope = sign_decision(taken, signer) if signer else {tagged.ENVELOPE: None, tagged.KEY: None}
    told = json.dumps({gate.name: [gate.verdict, gate.says] for gate in found}, ensure_ascii=False)
    register.tag_model(ROLLBACK, None)  # one that broke off is overtaken
    register.tag(taken.version, {tagged.GATES: told, **envelope})
    register.tag(taken.version, {tagged.RECORD: taken.to_json()})


def _carry_out(register: Register, taken: Decision, found: tuple[Gate, ...], tell: Tell) -> str:
    """Do what a decision on record says; all of it can be done again. Returns who decided, as `vouched`."""
    who = vouched(taken, register.tags(taken.version))
    said = {
        tagged.DECISION: taken.verdict,
        tagged.REVIEWER: who,
        tagged.REASON: taken.reason,
        tagged.AT: taken.at,
    }
    register.tag(taken.version, said)
    if taken.verdict == "approved":
        _promote(register, taken)
    else:
        aliases = register.aliases()
        if aliases.previous is not None and aliases.previous == aliases.champion:
            register.point_previous(taken.before)
    tell(_event(taken, who, found))
    # The status comes after the outcome: whoever sees the one finds the other.
    outcome = f"{taken.status}: {_outcome(taken, found)}"
    register.tag(
        taken.version, {tagged.OUTCOME: outcome, tagged.STATUS: taken.status, tagged.APPLIED: taken.id}
    )
    return who


def _promote(register: Register, taken: Decision) -> None:
    if register.aliases().champion != taken.version:
        if taken.replaces is not None:
            register.point_previous(taken.replaces)
        register.point_champion(taken.version)
    now = register.aliases().champion
    if now != taken.version:
        raise ReviewError(f"another decision overtook this one: version {now} is champion, look again")


def _outcome(taken: Decision, found: tuple[Gate, ...]) -> str:
    if taken.verdict == "approved":
        instead = f"in the place of version {taken.replaces}" if taken.replaces else "the first one"
        return f"champion since {taken.at}, {instead}"
    if taken.verdict == "rejected":
        return f"rejected at {taken.at}"
    failed = first_failed(found)
    return f"refused at {taken.at}: {failed.words if failed else 'a gate failed'}"


def _event(taken: Decision, who: str, found: tuple[Gate, ...]) -> ReviewEvent:
    kind = f"fedllm.review.{taken.verdict}"
    payload = {
        "version": taken.version,
        "model_sha256": taken.model_sha256,
        "replaces": taken.replaces,
        "reviewer": who,
        "reason": taken.reason,
        "at": taken.at,
        "gates": {gate.name: gate.verdict for gate in found},
    }
    if taken.verdict == "refused" and (failed := first_failed(found)):
        payload["refused"] = failed.words
    return ReviewEvent(kind, taken.federation, tagged.event_id(taken.id, kind), payload)

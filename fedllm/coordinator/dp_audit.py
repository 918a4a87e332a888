"""Step 3, dp-audit: check every update, then record in closed.json which of them count."""

import hashlib
from collections.abc import Sequence

from fedllm.aggregation.weights import weight
from fedllm.auditing.noise import Trained
from fedllm.auditing.updates import refuse
from fedllm.coordinator.account_for import account_for
from fedllm.coordinator.dispatch import read_plan
from fedllm.coordinator.payloads import read_model
from fedllm.coordinator.quota import check_quota
from fedllm.coordinator.round_view import TrainingRound
from fedllm.coordinator.training import Training
from fedllm.coordinator.wait import member
from fedllm.errors import EquivocationError, ObjectNotFoundError, RefusedError, RoundError
from fedllm.exchange.mailbox import expected_of
from fedllm.journal.outcomes import Audited, Dispatched, SiteOutcome
from fedllm.models.codec import decode_flat
from fedllm.protocol.messages import COORDINATOR, EVERYONE, Closed, Counted, Plan, Update, Verdict


def dp_audit(training: Training, number: int, outcomes: Sequence[SiteOutcome]) -> Audited:
    """Close a round: from here on its aggregate is fixed, on any coordinator.

    Returns:
        The hash of closed.json, the updates that count, and a verdict per site.

    Raises:
        RoundError: fewer than `min_sites` updates may count.
    """
    key = training.layout.closed(training.run, number)
    envelope = training.publish(key, lambda: _close(training, number, outcomes))
    mine = training.mailbox.me.public
    closed = training.mailbox.open(envelope, Closed, mine, run=training.run, number=number).message
    return Audited(
        closed_sha256=hashlib.sha256(envelope).hexdigest(),
        counted=closed.counted,
        verdicts=closed.verdicts,
    )


def _close(training: Training, number: int, outcomes: Sequence[SiteOutcome]) -> Closed:
    plan = read_plan(training, number)
    size = training.learner().shared.layout.size
    model_norm = float(decode_flat(read_model(training, plan.model), size).double().norm())
    verdicts: list[Verdict] = []
    counted: list[Counted] = []
    # Sorted by name: the order of arrival must not affect the sum's rounding.
    for outcome in sorted(outcomes, key=lambda done: done.site):
        verdict = _verdict(training, plan, outcome, _as_planned(plan, outcome, size, model_norm))
        verdicts.append(verdict)
        if verdict.accepted and outcome.payload is not None:
            planned_weight = plan.weights[outcome.site]
            share = weight(plan.weighting, planned_weight, outcome.steps)
            counted.append(Counted(site=outcome.site, weight=share, payload=outcome.payload))
    if len(counted) < training.config.rounds.min_sites:
        reasons = "; ".join(f"{v.site}: {v.reason}" for v in verdicts if not v.accepted)
        raise RoundError(
            f"round {number}: {len(counted)} updates can be counted, rounds.min_sites is "
            f"{training.config.rounds.min_sites} ({reasons})"
        )
    dispatched = training.journal.require(training.run, number, "dispatch", Dispatched)
    return Closed(
        federation=plan.federation,
        sender=COORDINATOR,
        receiver=EVERYONE,
        run=plan.run,
        round=number,
        roster_version=plan.roster_version,
        plan_sha256=dispatched.plan_sha256,
        counted=tuple(counted),
        verdicts=tuple(verdicts),
    )


def _as_planned(plan: Plan, outcome: SiteOutcome, size: int, model_norm: float) -> Trained:
    """Return what the update checks need to know of a plan and an outcome."""
    return Trained(
        site=outcome.site,
        local=plan.local,
        steps=outcome.steps,
        size=size,
        model_norm=model_norm,
        round=plan.round,
        rounds=plan.rounds,
        privacy=plan.privacy,
        codec=plan.codec,
    )


def _verdict(training: Training, plan: Plan, outcome: SiteOutcome, trained: Trained) -> Verdict:
    """Audit one site; every refusal is recorded as a security event."""
    site, security = outcome.site, training.journal.security
    try:
        _check_conduct(training, plan, outcome)
    except RefusedError as error:
        security.refused(error, site, training.run, plan.round)
        verdict, noted = refuse(site, f"{error.kind}: {error}", {}, "signature"), True
    else:
        verdict, noted = _checked(training, plan, outcome, trained), False
    if plan.privacy is not None:
        verdict = account_for(training.journal, plan, outcome, verdict, member(training, site))
    if not (verdict.accepted or noted) and "fail" in verdict.checks.values() and outcome.status == "updated":
        security.record("refused", site, verdict.reason, training.run, plan.round)
    return verdict


def _check_conduct(training: Training, plan: Plan, outcome: SiteOutcome) -> None:
    """Check that the site is still a member, is within its quota, and has not replaced its update.

    Raises:
        RefusedError: one of the checks fails.
    """
    site, run, number = outcome.site, training.run, plan.round
    keys = member(training, site)
    if keys is None:
        raise RefusedError("it was revoked")
    if outcome.verify not in {None, keys.verify}:
        raise RefusedError("it was revoked: its update is signed with its former keys")
    check_quota(training, plan, site)
    if outcome.update_sha256 is None:
        return
    try:
        again = training.mailbox.find(
            training.layout.update(site, run, number), Update, keys, **expected_of(plan)
        )
    except RefusedError as error:
        # Anyone with write access to the store could do that: the pinned signed message holds.
        training.journal.security.refused(error, site, run, number)
        return
    if again is not None and again.sha256 != outcome.update_sha256:
        raise EquivocationError("it signed two different updates for one round")


def _checked(training: Training, plan: Plan, outcome: SiteOutcome, trained: Trained) -> Verdict:
    site = outcome.site
    if outcome.status != "updated" or outcome.payload is None:
        failed = "signature" if outcome.status == "refused" else "schema"
        verdict = refuse(site, f"{outcome.status}: {outcome.reason}", {}, failed)
        if outcome.status == "refused":
            return verdict
        # There was nothing to check, so no check failed.
        return verdict.model_copy(update={"checks": dict.fromkeys(verdict.checks, "not observable")})
    if outcome.payload.sealed_bytes > plan.most_bytes:
        reason = f"{outcome.payload.sealed_bytes} bytes, the plan allows {plan.most_bytes}"
        return refuse(site, reason, {"signature": "pass"}, "size")
    view = TrainingRound(training, plan, trained.size)
    try:
        return training.mode.coordinator.inspect(view, outcome.payload, trained)
    except (RefusedError, ObjectNotFoundError) as error:
        return refuse(site, str(error), {"signature": "pass", "size": "pass"}, "hash")

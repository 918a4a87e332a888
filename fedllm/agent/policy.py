"""Decide about a plan by the site's own policy, which no plan can widen."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from fedllm.agent.limits import memory_limit
from fedllm.config import PolicyConfig
from fedllm.models.codec import CODECS
from fedllm.protocol.messages import Plan
from fedllm.text import one_line

_DAY = 24 * 60  # min
_CLOCKS = 2.0  # s; the store tells whole seconds, and each party asks it at another time
_COPIES = 4  # of the shared numbers in a training: the start, the adapter, its gradient, the update


@dataclass(frozen=True)
class Decision:
    """What the site will do, and why if it is less than the plan asks."""

    kind: Literal["accept", "less", "decline"]
    steps: int = 0
    reason: str = ""
    event: Literal["", "policy", "refused"] = ""  # kind of the security event of a decline; empty: none


@dataclass(frozen=True)
class Spent:
    """What a run has used of this site so far."""

    bytes: int = 0  # promised: models down, updates up
    seconds: float = 0.0  # s of training


def decide(  # noqa: PLR0913 - what a decision rests on, each named by the caller
    plan: Plan,
    policy: PolicyConfig,
    *,
    site: str,
    roster: Mapping[str, str],
    base_sha256: str,
    now: float,
    spent: Spent,
    fault: str | None = None,
) -> Decision:
    """Check a plan against the site's policy and return the decision.

    Args:
        plan: a plan whose signature was checked.
        policy: the site's own limits.
        site: the site's name.
        roster: fingerprints of the keys in the roster, by name; only these count in a cohort.
        base_sha256: fingerprint of the base model that the site holds.
        now: s since 1970, by the store's clock.
        spent: what the run has used so far.
        fault: why the plan cannot be honest, from `fault_of`.
    """
    if site not in plan.sites:
        return Decision("decline", reason="the plan does not include this site")
    if now >= plan.deadline:
        return Decision("decline", reason="the plan's deadline has passed")
    for reason in (
        _about_the_model(plan, policy, base_sha256),
        _about_the_codec(plan, policy),
        _about_the_size(plan, policy),
        _about_the_privacy(plan, policy),
        _about_the_cohort(plan, policy, roster),
        _about_the_effort(plan, policy, now, spent),
    ):
        if reason is not None:
            return Decision("decline", reason=one_line(reason), event="policy")
    if fault is not None:
        return Decision("decline", reason=one_line(fault), event="refused")
    if plan.local.steps > policy.max_steps:
        return Decision("less", policy.max_steps, f"the policy allows {policy.max_steps} steps per round")
    return Decision("accept", plan.local.steps)


def _about_the_model(plan: Plan, policy: PolicyConfig, base_sha256: str) -> str | None:
    adapter = plan.adapter
    foreign = sorted(set(adapter.targets) - set(policy.targets)) if adapter.method != "full" else []
    if plan.base_sha256 != base_sha256:
        return f"the base model here is {base_sha256[:12]}, not the plan's"
    if policy.bases and plan.base_sha256 not in policy.bases:
        return "this base model is not among those that the policy allows"
    if adapter.method not in policy.methods:
        return f"the policy does not allow {adapter.method}"
    if foreign:
        return f"the policy does not allow training {', '.join(foreign)}"
    if plan.task.kind not in policy.tasks:
        return f"the policy does not allow {plan.task.kind}"
    return None


def _about_the_codec(plan: Plan, policy: PolicyConfig) -> str | None:
    if plan.codec not in CODECS:
        return f"the codec {plan.codec} is not known here"
    if policy.codecs and plan.codec not in policy.codecs:
        return f"the policy does not allow the codec {plan.codec}"
    return None


def _about_the_size(plan: Plan, policy: PolicyConfig) -> str | None:
    length, tokens = plan.task.max_length, plan.local.batch_size * plan.task.max_length
    if plan.adapter.rank > policy.max_rank:
        return f"rank {plan.adapter.rank} is above the policy's {policy.max_rank}"
    if length > policy.max_length:
        return f"{length} tokens per record are above the policy's {policy.max_length}"
    if plan.task.traits.tokens and tokens > policy.max_batch_tokens:
        return f"a batch of {tokens} tokens is above the policy's {policy.max_batch_tokens}"
    if (size := plan.model.sealed_bytes) * _COPIES > memory_limit(policy):
        return f"a model of {size} bytes is too large for the memory that the policy allows"
    return None


def _about_the_privacy(plan: Plan, policy: PolicyConfig) -> str | None:
    asked = plan.privacy
    unit = asked.unit if asked else "none"
    if unit not in policy.units:
        return f"privacy by {unit} is not what the policy allows: {', '.join(policy.units)}"
    if asked is None:
        return "the policy has a privacy budget, but the plan has no privacy" if policy.budgets else None
    if asked.unit == "person" and policy.person is not None and asked.unit_field != policy.person:
        return f"a person is named by {asked.unit_field} in the plan, by {policy.person} in the policy"
    if policy.max_epsilon is not None and asked.epsilon > policy.max_epsilon:
        return f"epsilon {asked.epsilon:.6g} is above the policy's {policy.max_epsilon:.6g} per training"
    if asked.delta > policy.max_delta:
        return f"delta {asked.delta:.6g} is above the policy's {policy.max_delta:.6g}"
    return None


def _about_the_cohort(plan: Plan, policy: PolicyConfig, roster: Mapping[str, str]) -> str | None:
    cohort = set(roster) & set(plan.sites)
    if len(cohort) < policy.min_cohort:
        return f"a cohort of {len(cohort)} is below the policy's {policy.min_cohort}"
    pinned = sorted(cohort & set(policy.peers))
    # A pinned name with other keys is a stranger, however many true peers the cohort has.
    if strangers := [name for name in pinned if roster[name] != policy.peers[name]]:
        return f"{strangers[0]} is in the roster with other keys than the policy pins"
    if len(pinned) < policy.min_peers:
        return f"{len(pinned)} pinned peers in the cohort are below the policy's {policy.min_peers}"
    # The sites that share the noise with this one: with pinned peers, only those count.
    honest = 1 + len(pinned) if policy.peers else len(cohort)
    if plan.privacy is not None and plan.privacy.min_honest > honest:
        group = "pinned or this site" if policy.peers else "in the roster"
        return (
            f"the plan needs {plan.privacy.min_honest} honest survivors, {honest} of the cohort are {group}"
        )
    return None


def _about_the_effort(plan: Plan, policy: PolicyConfig, now: float, spent: Spent) -> str | None:
    size = promised_bytes(plan)
    if plan.deadline - now > policy.max_round + _CLOCKS:
        return f"a round of {plan.deadline - now:.6g} s is above the policy's {policy.max_round:.6g}"
    if policy.hours is not None and hours_end(policy.hours, now) is None:
        return f"it is outside the policy's hours {policy.hours}"
    if policy.max_bytes is not None and spent.bytes + size > policy.max_bytes:
        return f"{spent.bytes + size} bytes per run are above the policy's {policy.max_bytes}"
    if policy.max_seconds is not None and spent.seconds >= policy.max_seconds:
        if plan.privacy is not None:  # seconds reveal how many records were drawn
            return "a limit of the site's policy is reached"
        return f"the policy's {policy.max_seconds:.6g} s of training per run are spent"
    return None


def promised_bytes(plan: Plan) -> int:
    """Return the most bytes that a plan's round may transfer, down and up."""
    return plan.model.sealed_bytes + plan.most_bytes


def training_end(policy: PolicyConfig, now: float, spent: Spent) -> tuple[float, str]:
    """Return when this site's policy ends a training that begins now, and why.

    Returns:
        The end in s since 1970, by the clock of `now`, and the reason. The plan's deadline may be earlier.
    """
    ends = [(now + policy.max_training, f"the training exceeded the policy's {policy.max_training:.6g} s")]
    if policy.hours is not None and (end := hours_end(policy.hours, now)) is not None:
        ends.append((end, f"the policy's hours {policy.hours} are over"))
    if policy.max_seconds is not None:
        left = policy.max_seconds - spent.seconds
        ends.append((now + left, f"the policy's {policy.max_seconds:.6g} s of training per run are spent"))
    return min(ends)


def hours_end(hours: str, now: float) -> float | None:
    """Return when the working hours around `now` end, in s since 1970; None outside them.

    Args:
        hours: `22:00-06:00`, local time; the end may be on the next day.
        now: s since 1970.
    """
    begin, end = (int(part[:2]) * 60 + int(part[3:]) for part in hours.split("-"))  # minutes of a day
    local = datetime.fromtimestamp(now, tz=UTC).astimezone()
    elapsed = (local.hour * 60 + local.minute - begin) % _DAY
    length = (end - begin) % _DAY
    if elapsed >= length:
        return None
    return now - local.second + (length - elapsed) * 60

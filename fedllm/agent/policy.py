"""What a site decides about a plan. The site's word is the last one: no plan can widen its policy."""

from dataclasses import dataclass
from typing import Literal

from fedllm.config import PolicyConfig
from fedllm.exchange.messages import Plan


@dataclass(frozen=True)
class Decision:
    """What the site will do, and why when it is less than was asked."""

    kind: Literal["accept", "less", "decline"]
    steps: int = 0
    reason: str = ""


def decide(  # noqa: PLR0913 - what a decision rests on, each named by the caller
    plan: Plan, policy: PolicyConfig, *, site: str, peers: frozenset[str], base_sha256: str, now: float
) -> Decision:
    """Hold a plan against the site's policy.

    Args:
        plan: a plan whose signature was checked.
        policy: the site's own limits.
        site: the site's name.
        peers: names in the roster; a cohort counts those alone.
        base_sha256: fingerprint of the base model that the site holds.
        now: s since 1970, by the store's clock.
    """
    adapter = plan.adapter
    cohort = peers & set(plan.sites)
    foreign = sorted(set(adapter.targets) - set(policy.targets))
    refusals = [
        (site not in plan.sites, "the plan does not ask this site"),
        (now >= plan.deadline, "the plan's deadline has passed"),
        (plan.base_sha256 != base_sha256, f"the base model here is {base_sha256[:12]}, not the plan's"),
        (
            bool(policy.bases) and plan.base_sha256 not in policy.bases,
            "this base model is not among those that the policy allows",
        ),
        (adapter.method not in policy.methods, f"the policy does not allow {adapter.method}"),
        (bool(foreign), f"the policy does not allow training {', '.join(foreign)}"),
        (adapter.rank > policy.max_rank, f"rank {adapter.rank} is above the policy's {policy.max_rank}"),
        (
            plan.task.max_length > policy.max_length,
            f"{plan.task.max_length} tokens a record are above the policy's {policy.max_length}",
        ),
        (plan.task.kind not in policy.tasks, f"the policy does not allow {plan.task.kind}"),
        (
            len(cohort) < policy.min_cohort,
            f"a cohort of {len(cohort)} is below the policy's {policy.min_cohort}",
        ),
        (
            plan.deadline - now > policy.max_round,
            f"a round of {plan.deadline - now:.0f} s is above the policy's {policy.max_round:.0f}",
        ),
    ]
    for refused, reason in refusals:
        if refused:
            return Decision("decline", reason=reason)
    if plan.local.steps > policy.max_steps:
        return Decision("less", policy.max_steps, f"the policy allows {policy.max_steps} steps a round")
    return Decision("accept", plan.local.steps)

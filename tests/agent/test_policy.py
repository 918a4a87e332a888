from typing import Any

import pytest

from fedllm.agent.policy import Spent, decide
from fedllm.config import AdapterConfig, LocalConfig, PolicyConfig, TaskConfig
from fedllm.exchange.messages import Plan, Sealed

BASE = "b" * 64
SEALED = Sealed(key="k", sealed_sha256="0" * 64, sealed_bytes=1, sha256="0" * 64, bytes=1)


def plan(**changes: Any) -> Plan:  # noqa: ANN401
    asked: dict[str, Any] = {
        "federation": "fed",
        "sender": "coordinator",
        "receiver": "everyone",
        "run": "run",
        "round": 1,
        "roster_version": 1,
        "epoch": 1,
        "rounds": 3,
        "deadline": 1100.0,
        "seed": 7,
        "sites": ("amazon", "movies"),
        "weights": {"amazon": 1, "movies": 1},
        "weighting": "equal",
        "base_sha256": BASE,
        "adapter": AdapterConfig(),
        "layout_sha256": "1" * 64,
        "frozen_sha256": "2" * 64,
        "model": SEALED,
        "task": TaskConfig(kind="text", fields={"text": "text"}),
        "local": LocalConfig(steps=20),
        "most_bytes": 1000,
        "recipient": "age1" + "q" * 58,
        "confidentiality": "plain",
    }
    return Plan(**asked | changes)


def decision(asked: Plan, policy: PolicyConfig | None = None, **facts: Any) -> Any:  # noqa: ANN401
    known = {
        "site": "amazon",
        "roster": {"amazon": "a", "movies": "m", "nyt": "n"},
        "base_sha256": BASE,
        "now": 1000.0,
        "spent": Spent(),
    } | facts
    return decide(asked, policy or PolicyConfig(), **known)


def test_a_plan_within_the_policy_is_accepted_whole() -> None:
    assert (decision(plan()).kind, decision(plan()).steps) == ("accept", 20)


def test_more_steps_than_the_policy_allows_are_accepted_with_less() -> None:
    done = decision(plan(), PolicyConfig(max_steps=5))
    assert (done.kind, done.steps) == ("less", 5)
    assert "5 steps" in done.reason


@pytest.mark.parametrize(
    ("asked", "policy", "facts", "reason"),
    [
        ({}, {}, {"site": "nyt"}, "does not ask this site"),
        ({}, {}, {"now": 1100.0}, "deadline has passed"),
        ({}, {}, {"base_sha256": "c" * 64}, "base model here is cccccccccccc"),
        ({}, {"bases": ("d" * 64,)}, {}, "not among those that the policy allows"),
        ({}, {"methods": ("lora",)}, {}, "does not allow ffa-lora"),
        ({}, {"targets": ("q_proj",)}, {}, "training v_proj"),
        ({}, {"max_rank": 4}, {}, "rank 8 is above the policy's 4"),
        ({}, {"max_length": 64}, {}, "128 tokens a record are above"),
        ({}, {"tasks": ("chat",)}, {}, "does not allow text"),
        ({}, {"min_cohort": 3}, {}, "a cohort of 2 is below the policy's 3"),
        ({}, {}, {"roster": {"amazon": "a"}}, "a cohort of 1 is below the policy's 2"),
        ({"deadline": 9999.0}, {"max_round": 60}, {}, "above the policy's 60"),
    ],
)
def test_a_plan_beyond_the_policy_is_declined_with_the_reason(
    asked: dict[str, Any], policy: dict[str, Any], facts: dict[str, Any], reason: str
) -> None:
    done = decision(plan(**asked), PolicyConfig(**policy), **facts)
    assert done.kind == "decline"
    assert reason in done.reason

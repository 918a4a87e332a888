import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from fedllm.agent.held_base import HeldBase
from fedllm.agent.plan_faults import fault_of
from fedllm.agent.policy import Spent, decide, hours_end, training_end
from fedllm.config import AdapterConfig, LocalConfig, PolicyConfig, TaskConfig
from fedllm.protocol.layout import Layout
from fedllm.protocol.messages import Plan, Sealed
from fedllm.protocol.terms import PrivacyPlan

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


def test_every_known_codec_is_allowed_unless_the_policy_names_some() -> None:
    for codec in ("fp32", "fp16"):
        assert decision(plan(codec=codec)).kind == "accept"
        assert decision(plan(codec=codec), PolicyConfig(codecs=(codec,))).kind == "accept"


def test_more_steps_than_the_policy_allows_are_accepted_with_less() -> None:
    done = decision(plan(), PolicyConfig(max_steps=5))
    assert (done.kind, done.steps) == ("less", 5)
    assert "5 steps" in done.reason


AMAZON, MOVIES, OTHER = "aaaa-" * 7 + "aaaa", "mmmm-" * 7 + "mmmm", "oooo-" * 7 + "oooo"
PINNED = {"peers": {"movies": MOVIES}, "min_peers": 1}


@pytest.mark.parametrize(
    ("asked", "policy", "facts", "reason"),
    [
        ({}, {}, {"site": "nyt"}, "does not include this site"),
        ({}, {}, {"now": 1100.0}, "deadline has passed"),
        ({}, {}, {"base_sha256": "c" * 64}, "base model here is cccccccccccc"),
        ({}, {"bases": ("d" * 64,)}, {}, "not among those that the policy allows"),
        ({}, {"methods": ("lora",)}, {}, "does not allow ffa-lora"),
        ({"codec": "top-k"}, {}, {}, "the codec top-k is not known here"),
        ({"codec": "top-k"}, {"codecs": ("top-k",)}, {}, "the codec top-k is not known here"),
        ({"codec": "fp16"}, {"codecs": ("fp32",)}, {}, "the policy does not allow the codec fp16"),
        ({}, {"codecs": ("fp16",)}, {}, "the policy does not allow the codec fp32"),
        ({}, {"targets": ("q_proj",)}, {}, "training v_proj"),
        ({}, {"max_rank": 4}, {}, "rank 8 is above the policy's 4"),
        ({}, {"max_length": 64}, {}, "128 tokens per record are above"),
        (
            {"local": LocalConfig(batch_size=65_536)},
            {},
            {},
            "a batch of 8388608 tokens is above the policy's 262144",
        ),
        ({}, {"max_batch_tokens": 2047}, {}, "a batch of 2048 tokens is above the policy's 2047"),
        (
            {"model": SEALED.model_copy(update={"sealed_bytes": 2**27 + 1})},
            {"max_memory": "512MiB"},
            {},
            "a model of 134217729 bytes is too large for the memory that the policy allows",
        ),
        ({}, {"tasks": ("chat",)}, {}, "does not allow text"),
        ({}, {"min_cohort": 3}, {}, "a cohort of 2 is below the policy's 3"),
        ({}, {}, {"roster": {"amazon": AMAZON}}, "a cohort of 1 is below the policy's 2"),
        ({}, PINNED, {}, "movies is in the roster with other keys than the policy pins"),
        (
            {},
            {"peers": {"nyt": OTHER}, "min_peers": 1},
            {},
            "0 pinned peers in the cohort are below the policy's 1",
        ),
        ({"deadline": 9999.0}, {"max_round": 60}, {}, "above the policy's 60"),
        ({"deadline": 1063.0}, {"max_round": 60}, {}, "a round of 63 s is above the policy's 60"),
        ({}, {"max_bytes": 1000}, {}, "1001 bytes per run are above the policy's 1000"),
        ({}, {"max_bytes": 1500}, {"spent": Spent(bytes=500)}, "1501 bytes per run are above"),
        ({}, {"max_seconds": 30}, {"spent": Spent(seconds=30.0)}, "30 s of training per run are spent"),
        ({}, {}, {"fault": "weights\nand sites"}, "weights?and sites"),
    ],
)
def test_a_plan_beyond_the_policy_is_declined_with_the_reason(
    asked: dict[str, Any], policy: dict[str, Any], facts: dict[str, Any], reason: str
) -> None:
    done = decision(plan(**asked), PolicyConfig(**policy), **facts)
    assert done.kind == "decline"
    assert reason in done.reason


def test_a_round_as_long_as_the_policy_allows_is_joined_whoever_read_the_clock_first() -> None:
    done = decision(plan(deadline=1060.9), PolicyConfig(max_round=60))
    assert done.kind == "accept"


def test_a_cohort_with_the_pinned_peers_is_joined() -> None:
    done = decision(plan(), PolicyConfig(**PINNED), roster={"amazon": AMAZON, "movies": MOVIES})
    assert done.kind == "accept"


INVENTED = tuple(f"invented-{number}" for number in range(9_998))


@pytest.mark.parametrize(
    ("peers", "honest", "reason"),
    [
        ({}, 2, ""),
        ({}, 3, "3 honest survivors, 2 of the cohort are in the roster"),
        ({"movies": MOVIES}, 2, ""),
        ({"nyt": OTHER}, 2, "2 honest survivors, 1 of the cohort are pinned or this site"),
        ({"movies": MOVIES}, 10_000, "10000 honest survivors, 2 of the cohort are pinned"),
    ],
)
def test_a_site_shares_its_noise_with_those_alone_whom_it_knows(
    peers: dict[str, str], honest: int, reason: str
) -> None:
    private = PrivacyPlan(
        unit="site",
        epsilon=8,
        delta=1e-5,
        clip=1,
        rounds=1,
        steps=1,
        sampling_rate=1,
        noise_multiplier=200,
        min_honest=honest,
    )
    sites = ("amazon", "movies", *INVENTED)
    asked = plan(sites=sites, weights=dict.fromkeys(sites, 1), privacy=private)
    roster = {"amazon": AMAZON, "movies": MOVIES, "nyt": OTHER}
    done = decision(asked, PolicyConfig(peers=peers), roster=roster)
    assert done.kind == ("decline" if reason else "accept")
    assert reason in done.reason


def test_a_plan_that_asks_somebody_outside_the_roster_cannot_be_honest() -> None:
    sites = ("amazon", "invented", "movies")
    asked = plan(sites=sites, weights=dict.fromkeys(sites, 1))
    base = HeldBase.__new__(HeldBase)  # it is not looked at
    fault = fault_of(asked, Layout("fed"), base, {"amazon": AMAZON, "movies": MOVIES})
    assert fault == "the plan includes invented, which is not in the roster"


def test_what_a_plan_quotes_into_a_reason_is_printable_and_short() -> None:
    adapter = AdapterConfig(targets=("x\n2026 INFO all is well", *["y" * 200] * 99))
    done = decision(plan(adapter=adapter))
    assert done.reason.isprintable()
    assert len(done.reason) <= 500


def test_only_what_goes_against_the_site_is_put_on_record() -> None:
    events = [
        decision(plan(), site="nyt").event,
        decision(plan(), now=1100.0).event,
        decision(plan(), PolicyConfig(max_rank=4)).event,
        decision(plan(), fault="sizes").event,
    ]
    assert events == ["", "", "policy", "refused"]


@pytest.fixture
def five_hours_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "XYZ5")  # local time is five hours behind UTC
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("hours", "utc", "end"),
    [
        ("22:00-06:00", "02:59", None),
        ("22:00-06:00", "03:00", "11:00"),
        ("22:00-06:00", "10:59", "11:00"),
        ("22:00-06:00", "11:00", None),
        ("08:00-17:30", "13:00", "22:30"),
        ("08:00-17:30", "22:30", None),
    ],
)
@pytest.mark.usefixtures("five_hours_behind")
def test_working_hours_go_by_local_time_and_may_span_midnight(hours: str, utc: str, end: str | None) -> None:
    def at(told: str) -> float:
        return datetime.fromisoformat(f"2026-11-22T{told}:00+00:00").timestamp()

    assert hours_end(hours, at(utc)) == (at(end) if end else None)


@pytest.mark.usefixtures("five_hours_behind")
def test_a_plan_outside_working_hours_is_declined() -> None:
    noon = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
    done = decision(plan(deadline=noon + 60), PolicyConfig(hours="08:00-17:00"), now=noon)
    assert done.reason == "it is outside the policy's hours 08:00-17:00"


@pytest.mark.usefixtures("five_hours_behind")
def test_training_ends_with_the_hours_or_the_seconds_whichever_is_first() -> None:
    now = datetime(2026, 11, 22, 21, 59, tzinfo=UTC).timestamp()
    policy = PolicyConfig(hours="08:00-17:00", max_seconds=50)
    assert training_end(policy, now, Spent(seconds=20.0)) == (
        now + 30,
        "the policy's 50 s of training per run are spent",
    )
    assert training_end(policy, now, Spent(seconds=-99.0)) == (
        now + 60,
        "the policy's hours 08:00-17:00 are over",
    )
    assert training_end(PolicyConfig(max_training="20s", max_seconds=50), now, Spent()) == (
        now + 20,
        "the training exceeded the policy's 20 s",
    )
    assert training_end(PolicyConfig(), now, Spent())[0] == now + 4 * 3600

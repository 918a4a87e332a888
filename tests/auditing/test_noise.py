"""The noise check blames nobody who is honest, also where training undoes its own noise."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from scipy.stats import chi2

from fedllm.auditing.noise import Trained, noise_check, noise_std
from fedllm.config import LocalConfig
from fedllm.models.codec import codec_named
from fedllm.protocol.terms import PrivacyPlan, private_terms
from fedllm.training.dp import train_privately
from tests.tiers import by_tier
from tests.training.linear import LinearLearner

STEPS, WIDTH = 24, 128
RECORDS = [{"seed": str(number)} for number in range(6 * WIDTH)]
# The mean of (x·w - t)² has curvatures around 2/WIDTH: a step of this rate ends near the optimum.
LOCAL = LocalConfig(optimizer="sgd", lr=0.4 * WIDTH, steps=STEPS, batch_size=len(RECORDS), precision="fp32")
PLAN = PrivacyPlan(
    unit="record",
    epsilon=8.0,
    delta=1e-5,
    clip=1e3,
    rounds=9,
    steps=STEPS,
    sampling_rate=1.0,
    noise_multiplier=1.0,
)


def rounds(local: LocalConfig) -> Iterator[tuple[float, Trained]]:
    """Norms of honest updates near the optimum, one round after the other."""
    learner = LinearLearner(WIDTH)
    trained = Trained("site", local, STEPS, WIDTH, 0.0, rounds=9, privacy=PLAN)
    while True:
        start = learner.shared.read()
        terms = private_terms(PLAN, "site")
        train_privately(learner, RECORDS, local, terms, steps=STEPS, round_number=1, rounds=9)
        yield float((learner.shared.read() - start).double().norm()), trained


def half_of_all_steps(norm: float, trained: Trained) -> bool:
    """The check as it was up to 0.1: half of what the steps' noise adds up to has to be there."""
    std = noise_std(trained, PLAN) * STEPS**0.5
    return norm**2 >= 0.5 * std**2 * float(chi2.ppf(1e-9, WIDTH))


@by_tier(few=12, many=1000)
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_no_honest_round_is_blamed_where_training_undoes_its_noise(
    momentum: float, part: int, count: int
) -> None:
    del part
    played = rounds(LOCAL.model_copy(update={"momentum": momentum}))
    found = [next(played) for _ in range(count)]
    assert [noise_check(norm, trained, PLAN) for norm, trained in found] == ["pass"] * count
    if not momentum:
        blamed = sum(not half_of_all_steps(norm, trained) for norm, trained in found)
        assert blamed > count / 4  # what the former check said of these


def test_an_update_without_noise_is_found_near_the_optimum() -> None:
    _, trained = next(rounds(LOCAL))
    learner = LinearLearner(WIDTH)
    loss = learner.losses(learner.encode(RECORDS)).mean()
    (gradient,) = torch.autograd.grad(loss, learner.shared.trainable)
    assert noise_check(float(LOCAL.lr * gradient.norm()), trained, PLAN) == "fail"


def test_where_the_last_step_moves_nothing_its_noise_is_not_observable() -> None:
    still = LOCAL.model_copy(update={"schedule": "linear", "warmup": 0, "steps": 2})
    trained = Trained("site", still, 1, WIDTH, 0.0, rounds=1, privacy=PLAN)
    assert noise_check(0.0, trained, PLAN) == "fail"
    adam = Trained("site", LOCAL.model_copy(update={"optimizer": "adamw"}), 1, WIDTH, 0.0, privacy=PLAN)
    assert noise_check(0.0, adam, PLAN) == "not observable"


def test_in_fp16_an_update_of_the_least_noise_passes_whichever_way_it_is_rounded() -> None:
    codec, size = codec_named("fp16"), 1 << 14
    trained = Trained("site", LOCAL, STEPS, size, 0.0, rounds=9, privacy=PLAN, codec="fp16")
    least = noise_std(trained, PLAN) * float(chi2.ppf(1e-9, size)) ** 0.5  # the norm that a billion are above
    number = least / size**0.5
    down = 2.0 ** math.floor(math.log2(number)) * (1 + 2.0**-11.01)  # nearly half a place above a half
    trained = replace(trained, local=LOCAL.model_copy(update={"lr": LOCAL.lr * down / number}))
    payload, _ = codec.encode(torch.full((size,), down), None)
    norm = float(codec.decode(payload, size).double().norm())
    assert noise_check(norm, replace(trained, codec="fp32"), PLAN) == "fail"
    assert noise_check(norm, trained, PLAN) == "pass"
    assert noise_check(norm * (1 - 2.0**-10), trained, PLAN) == "fail"

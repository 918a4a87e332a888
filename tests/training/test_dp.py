"""DP-SGD: what a unit can change is bounded, what is added hides it, and nothing else is told."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from fedllm.config import LocalConfig
from fedllm.data.records import Record
from fedllm.errors import ModelError
from fedllm.privacy.noise import SecureNoise
from fedllm.privacy.terms import PrivateTerms
from fedllm.training.dp import (
    PrivateResult,
    add_noise,
    clip_and_sum,
    clipped_sums,
    draw_units,
    train_privately,
    units_of,
)
from fedllm.training.learner import Learner
from fedllm.training.per_example import per_example_gradients
from fedllm.training.precision import accelerator
from tests.training.learners import RECORDS, TASK, Pictures, learner_and_records, text_learner

RECORD = PrivateTerms(unit="record", sampling_rate=0.5, noise_multiplier=0.5, clip=0.1)
PERSON = dataclasses.replace(RECORD, unit="person", unit_field="who", max_per_person=100)
LOCAL = LocalConfig(optimizer="sgd", lr=0.5, steps=4, batch_size=3, precision="fp32")
EXACT = 1 + 1e-6  # fp32 rounds a norm by no more


def private(
    learner: Learner,
    records: Sequence[Record],
    local: LocalConfig = LOCAL,
    terms: PrivateTerms = RECORD,
    **more: Any,  # noqa: ANN401 - what `train_privately` takes
) -> PrivateResult:
    more = {"steps": local.steps, "round_number": 1, "rounds": 1} | more
    return train_privately(learner, records, local, terms, **more)


def sums_of(learner: Learner, units: Sequence[Sequence[Record]], clip: float) -> torch.Tensor:
    """The clipped sum over units, as one vector."""
    with per_example_gradients(learner, accelerator("fp32")) as gradients:
        sums = clipped_sums(learner, gradients, [learner.encode(unit) for unit in units], clip)
    return torch.cat([part.flatten() for part in sums])


def heavy(units: int) -> list[torch.Tensor]:
    """Gradients of all sizes for two tensors."""
    sizes = torch.logspace(-3, 3, units)
    return [sizes[:, None, None] * torch.randn(units, 3, 4), sizes[:, None] * torch.randn(units, 5)]


def test_a_small_gradient_stays_as_it_is() -> None:
    gradients = [torch.full((2, 3), 0.1), torch.full((2, 1), 0.2)]
    left, right = clip_and_sum(gradients, 1.0)
    torch.testing.assert_close(left, torch.full((3,), 0.2))
    torch.testing.assert_close(right, torch.tensor([0.4]))


def test_a_large_gradient_keeps_its_direction_and_has_the_clip_as_its_norm_over_all_tensors() -> None:
    left, right = clip_and_sum([torch.tensor([[30.0, 0.0]]), torch.tensor([[40.0]])], 0.5)
    torch.testing.assert_close(left, torch.tensor([0.3, 0.0]))
    torch.testing.assert_close(right, torch.tensor([0.4]))


def test_adding_or_removing_any_unit_changes_the_sum_by_the_clip_at_most() -> None:
    gradients = heavy(40)
    whole = torch.cat([part.double().flatten() for part in clip_and_sum(gradients, 0.3)])
    for left_out in range(40):
        kept = [i for i in range(40) if i != left_out]
        without = clip_and_sum([gradient[kept] for gradient in gradients], 0.3)
        change = whole - torch.cat([part.double().flatten() for part in without])
        assert change.norm() < 0.3 * (1 + 1e-4)  # a sum of 40 rounds more than one norm does


@pytest.mark.parametrize("fault", [float("nan"), float("inf"), 1e30])
def test_a_gradient_that_is_not_finite_adds_nothing(fault: float) -> None:
    gradients = heavy(6)
    due = clip_and_sum([gradient[1:] for gradient in gradients], 0.3)
    gradients[1][0, 2] = fault
    found = clip_and_sum(gradients, 0.3)
    assert all(bool(torch.isfinite(part).all()) for part in found)
    if fault != 1e30:
        for mine, other in zip(found, due, strict=True):
            torch.testing.assert_close(mine, other)


def test_no_noise_leaves_the_sums_alone() -> None:
    sums = clip_and_sum(heavy(6), 0.3)
    for mine, other in zip(add_noise(sums, 0.0, SecureNoise()), sums, strict=True):
        assert torch.equal(mine, other)


def test_noise_of_the_standard_deviation_asked_for_is_added_to_every_number() -> None:
    sums = [torch.full((300, 300), 5.0), torch.full((500,), -5.0)]
    left, right = add_noise(sums, 0.7, SecureNoise())
    assert abs(left.mean() - 5) < 0.02
    assert abs(left.std() - 0.7) < 0.02
    assert abs(right.std() - 0.7) < 0.15
    assert len(left.unique()) > 80_000


def test_a_step_has_noise_of_sigma_times_clip_over_the_public_batch_size() -> None:
    learner = text_learner()
    start = learner.shared.read()
    private(learner, [], LocalConfig(optimizer="sgd", lr=1, steps=1, batch_size=20, precision="fp32"))
    moved = learner.shared.read() - start
    assert moved.std() == pytest.approx(0.5 * 0.1 / 20, rel=0.15)  # 768 numbers: six standard errors
    assert abs(moved.mean()) < 5 * moved.std() / moved.numel() ** 0.5


@pytest.mark.parametrize("kind", ["ffa-lora", "cnn"])
def test_the_micro_batches_do_not_matter(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, records = learner_and_records(kind)
    units = [[record] for record in records]
    due = sums_of(learner, units, 0.1)
    for split in ([[0, 1, 2, 3, 4, 5]], [[i] for i in range(6)], [[5, 2], [0, 1, 3, 4]]):
        monkeypatch.setattr(learner, "split", lambda _, split=split: split)
        torch.testing.assert_close(sums_of(learner, units, 0.1), due, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["ffa-lora", "lora", "cnn"])
def test_no_record_moves_the_sum_by_more_than_the_clip(kind: str) -> None:
    learner, records = learner_and_records(kind)
    whole = sums_of(learner, [[record] for record in records], 0.1)
    for left_out in range(len(records)):
        others = [[record] for i, record in enumerate(records) if i != left_out]
        assert 0.01 < (whole - sums_of(learner, others, 0.1)).norm() < 0.1 * (1 + 1e-4)


@pytest.mark.parametrize("kind", ["ffa-lora", "cnn"])
def test_a_person_with_fifty_records_moves_the_sum_by_the_clip_at_most(kind: str) -> None:
    learner, records = learner_and_records(kind)
    others = [[record] for record in records[1:]]
    one = sums_of(learner, [*others, [records[0]]], 0.1) - sums_of(learner, others, 0.1)
    fifty = sums_of(learner, [[records[0]] * 50, *others], 0.1) - sums_of(learner, others, 0.1)
    assert fifty.norm() < 0.1 * (1 + 1e-4)
    assert torch.nn.functional.cosine_similarity(one, fifty, dim=0) > 0.99


def test_a_persons_records_are_summed_before_they_are_clipped() -> None:
    learner, records = learner_and_records("cnn")
    person = records[:3]
    gradient = sum(sums_of(learner, [[record]], 1e6) for record in person)
    torch.testing.assert_close(sums_of(learner, [person], 1e6), gradient, atol=1e-5, rtol=1e-5)
    clipped = sums_of(learner, [person], 0.1)
    torch.testing.assert_close(clipped, gradient * (0.1 / gradient.norm()), atol=1e-6, rtol=1e-4)


def test_units_are_records_or_people_and_the_nameless_are_in_none() -> None:
    records: list[Record] = [{"who": "a"}, {"who": "b"}, {"who": "a"}, {"who": " "}, {}]
    assert units_of(records, RECORD) == [[0], [1], [2], [3], [4]]
    assert units_of(records, PERSON) == [[0, 2], [1]]


def test_batches_are_of_poisson_sampling() -> None:
    units = [[i] for i in range(400)]
    terms = dataclasses.replace(RECORD, sampling_rate=0.1)
    source = SecureNoise()
    drawn = [draw_units(units, terms, source) for _ in range(2000)]
    sizes = np.array([len(batch) for batch in drawn])
    # Binomial(400, 0.1); six standard errors of its mean and of its variance over 2,000 draws.
    assert abs(sizes.mean() - 40) < 6 * (36 / 2000) ** 0.5
    assert abs(sizes.var() - 36) < 6 * 36 * (2 / 2000) ** 0.5
    often = np.bincount([unit[0] for batch in drawn for unit in batch], minlength=400)
    assert abs(often - 200).max() < 6 * (2000 * 0.1 * 0.9) ** 0.5
    assert all(len({unit[0] for unit in batch}) == len(batch) for batch in drawn)


def test_a_rate_of_one_draws_everybody() -> None:
    units = [[i] for i in range(50)]
    assert draw_units(units, dataclasses.replace(RECORD, sampling_rate=1.0), SecureNoise()) == units


def test_a_person_gives_so_many_records_at_most_any_of_them() -> None:
    terms = dataclasses.replace(PERSON, sampling_rate=1.0, max_per_person=3)
    source = SecureNoise()
    drawn = [draw_units([list(range(10)), [10, 11]], terms, source) for _ in range(200)]
    assert all(len(set(first)) == 3 for first, _ in drawn)
    assert all(second == [10, 11] for _, second in drawn)
    assert {i for first, _ in drawn for i in first} == set(range(10))
    assert len({tuple(sorted(first)) for first, _ in drawn}) > 50  # of 120


class Tape:
    """A source that keeps what it gave."""

    def __init__(self) -> None:
        self._source = SecureNoise()
        self.normals: list[torch.Tensor] = []
        self.uniforms: list[np.ndarray[Any, np.dtype[np.float64]]] = []

    def normal(self, shape: Sequence[int], std: float) -> torch.Tensor:
        self.normals.append(self._source.normal(shape, std))
        return self.normals[-1]

    def uniform(self, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        self.uniforms.append(self._source.uniform(count))
        return self.uniforms[-1]


OPTIMIZERS = {
    "sgd": LOCAL,
    "momentum": LOCAL.model_copy(update={"momentum": 0.9}),
    "adam": LOCAL.model_copy(update={"optimizer": "adamw", "lr": 0.05, "weight_decay": 0.1}),
    "cosine": LOCAL.model_copy(update={"schedule": "cosine"}),
    "fedprox": LOCAL.model_copy(update={"algorithm": "fedprox", "prox_mu": 0.3}),
}


@pytest.mark.parametrize("kind", ["ffa-lora", "cnn"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_is_dp_sgd_as_it_is_done_by_hand(name: str, kind: str) -> None:
    local, tape = OPTIMIZERS[name], Tape()
    learner, records = learner_and_records(kind)
    private(learner, records, local, noise=tape, round_number=2, rounds=3)

    other, _ = learner_and_records(kind)
    parameters = other.shared.trainable
    start = [parameter.detach().clone() for parameter in parameters]
    rates = [0.5 * (1 + np.cos(np.pi * (4 + step) / 12)) if name == "cosine" else 1.0 for step in range(4)]
    options: dict[str, Any] = {"lr": 0.5, "momentum": local.momentum}
    optimizer: torch.optim.Optimizer = torch.optim.SGD(parameters, **options)
    if name == "adam":
        optimizer = torch.optim.AdamW(parameters, lr=0.05, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
    normals = iter(tape.normals)
    for uniforms, share in zip(tape.uniforms, rates, strict=True):
        chosen = [records[i] for i in np.flatnonzero(uniforms < 0.5)]
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        for example in other.encode(chosen):
            gradient = torch.autograd.grad(other.losses([example]).sum(), parameters)
            norm = float(torch.cat([part.flatten() for part in gradient]).norm())
            sums = [total + part * min(1.0, 0.1 / norm) for total, part in zip(sums, gradient, strict=True)]
        for parameter, total, first in zip(parameters, sums, start, strict=True):
            parameter.grad = (total + next(normals)) / 3
            if name == "fedprox":
                parameter.grad += 0.3 * (parameter.detach() - first)
        for group in optimizer.param_groups:
            group["lr"] = (0.05 if name == "adam" else 0.5) * share
        optimizer.step()
    assert next(normals, None) is None
    torch.testing.assert_close(learner.shared.read(), other.shared.read(), atol=2e-5, rtol=1e-4)


def moves_without_records(noise: Any) -> torch.Tensor:  # noqa: ANN401 - any source
    """What each of six steps on no records at all does: the noise, and nothing else; (steps, numbers)."""
    learner = text_learner()
    seen = [learner.shared.read()]
    private(
        learner, [], steps=6, noise=noise, progress=lambda _step, _steps: seen.append(learner.shared.read())
    )
    return torch.stack(seen).diff(dim=0)


def alike(moves: torch.Tensor) -> float:
    """The largest correlation between two steps."""
    return float((torch.corrcoef(moves) - torch.eye(len(moves))).abs().max())


class Repeating:
    """The fault to be caught: the same noise in every step."""

    def normal(self, shape: Sequence[int], std: float) -> torch.Tensor:
        return std * torch.randn(tuple(shape), generator=torch.Generator().manual_seed(7))

    def uniform(self, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.zeros(count)


def test_every_step_draws_its_own_noise() -> None:
    assert alike(moves_without_records(None)) < 0.25  # 768 numbers: six standard errors are 0.22


def test_noise_that_is_used_twice_shows() -> None:
    assert alike(moves_without_records(Repeating())) > 0.99


def test_steps_that_draw_nobody_are_done_and_count() -> None:
    moves = moves_without_records(None)
    assert len(moves) == 6
    assert (moves.std(dim=1) > 0).all()


def test_a_record_that_cannot_be_read_is_left_out_and_only_the_log_hears_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    unreadable: list[Record] = [
        {"id": "odd", "text": "a text", "label": "neither"},
        {"id": "bare", "label": "positive"},
        {"id": "half", "text": "half a pair \ud800", "label": "positive"},
    ]
    ends = []
    for records in (unreadable, []):
        tape = Tape()
        learner = text_learner()
        start = learner.shared.read()
        with caplog.at_level(logging.WARNING):
            told = private(learner, records, terms=dataclasses.replace(RECORD, sampling_rate=1.0), noise=tape)
        noise = torch.cat([part.flatten() for part in tape.normals]).view(4, -1)
        ends.append(learner.shared.read() - start + 0.5 / 3 * noise.sum(0))  # what is not noise
        assert told == PrivateResult(steps=4, seconds=told.seconds)
    assert max(end.abs().max() for end in ends) < 1e-6
    left_out = [message for message in caplog.messages if "left out" in message]
    assert len(left_out) == 3
    assert any("record odd" in message for message in left_out)


def test_the_result_says_nothing_of_the_records() -> None:
    assert {field.name for field in dataclasses.fields(PrivateResult)} == {"steps", "seconds"}


def test_a_task_that_does_not_fit_the_model_is_no_secret() -> None:
    learner = text_learner(task=TASK.model_copy(update={"labels": {"a": "x one", "b": "x two"}}))
    with pytest.raises(ModelError, match="start with different tokens"):
        private(learner, RECORDS)


class Overflowing(Pictures):
    """One record's gradient is not a number."""

    def losses(self, examples: Sequence[Any]) -> torch.Tensor:
        losses = super().losses(examples)
        return torch.stack(
            [
                loss * float("inf") if label == 2 else loss
                for loss, (_, label) in zip(losses, examples, strict=True)
            ]
        )


def test_a_record_whose_gradient_is_not_finite_adds_nothing_and_spoils_no_other() -> None:
    learner, records = Overflowing(), learner_and_records("cnn")[1]
    fine = [[record] for record in records if record["label"] != "2"]
    found = sums_of(learner, [[record] for record in records], 0.1)
    torch.testing.assert_close(found, sums_of(learner, fine, 0.1), atol=1e-6, rtol=1e-5)

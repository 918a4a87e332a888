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
from fedllm.privacy.grid import Grid
from fedllm.privacy.noise import SecureNoise
from fedllm.protocol.terms import PrivateTerms
from fedllm.training.dp import (
    PrivateResult,
    clipped_sums,
    draw_units,
    train_privately,
    units_of,
)
from fedllm.training.learner import Learner
from fedllm.training.passes import Passes
from fedllm.training.per_example import per_example_gradients
from fedllm.training.precision import accelerator
from tests.training.learners import RECORDS, TASK, Pictures, learner_and_records, text_learner

RECORD = PrivateTerms(unit="record", sampling_rate=0.5, noise_multiplier=0.5, clip=0.1)
PERSON = dataclasses.replace(RECORD, unit="person", unit_field="who", max_per_person=100)
LOCAL = LocalConfig(optimizer="sgd", lr=0.5, steps=4, batch_size=3, precision="fp32")
GRID = Grid(0.1, 0.5 * 0.1)  # of RECORD


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
    """The clipped sum over units, as one vector; float64, exact."""
    grid, engine = Grid(clip, clip), accelerator("fp32")
    with per_example_gradients(learner, engine) as gradients:
        passes = Passes(learner, gradients, engine)
        sums = clipped_sums(learner, passes, [learner.encode(unit) for unit in units], grid)
    return torch.cat([part.flatten() for part in sums]).double() * grid.step


def test_a_step_has_noise_of_sigma_times_clip_over_the_public_batch_size() -> None:
    learner = text_learner()
    start = learner.shared.read()
    private(learner, [], LocalConfig(optimizer="sgd", lr=1, steps=1, batch_size=20, precision="fp32"))
    moved = learner.shared.read() - start
    assert moved.std() == pytest.approx(0.5 * 0.1 / 20, rel=0.15)  # 768 numbers: six standard errors
    assert abs(moved.mean()) < 5 * moved.std() / moved.numel() ** 0.5


@pytest.mark.parametrize("kind", ["ffa-lora", "lora", "cnn"])
def test_the_sum_is_that_of_each_unit_alone_whatever_the_passes_are(kind: str) -> None:
    learner, records = learner_and_records(kind)
    units = [[record] for record in records]
    due = sum(sums_of(learner, [unit], 0.1) for unit in units)
    for some in (units, units[::-1], units[3:] + units[:3]):
        assert torch.equal(sums_of(learner, some, 0.1), due)


@pytest.mark.parametrize("kind", ["ffa-lora", "lora", "cnn"])
def test_no_record_moves_the_sum_by_more_than_the_clip(kind: str) -> None:
    learner, records = learner_and_records(kind)
    whole = sums_of(learner, [[record] for record in records], 0.1)
    for left_out in range(len(records)):
        others = [[record] for i, record in enumerate(records) if i != left_out]
        assert 0.01 < (whole - sums_of(learner, others, 0.1)).norm() <= 0.1


@pytest.mark.parametrize("kind", ["ffa-lora", "cnn"])
def test_a_person_with_fifty_records_moves_the_sum_by_the_clip_at_most(kind: str) -> None:
    learner, records = learner_and_records(kind)
    others = [[record] for record in records[1:]]
    one = sums_of(learner, [*others, [records[0]]], 0.1) - sums_of(learner, others, 0.1)
    fifty = sums_of(learner, [[records[0]] * 50, *others], 0.1) - sums_of(learner, others, 0.1)
    assert fifty.norm() <= 0.1
    assert torch.nn.functional.cosine_similarity(one, fifty, dim=0) > 0.99


def test_a_persons_records_are_summed_before_they_are_clipped() -> None:
    learner, records = learner_and_records("cnn")
    person = records[:3]
    gradient = sum(sums_of(learner, [[record]], 64.0) for record in person)
    torch.testing.assert_close(sums_of(learner, [person], 64.0), gradient, atol=1e-5, rtol=1e-5)
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


class Tape(SecureNoise):
    """A source that keeps what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.normals: list[torch.Tensor] = []
        self.drawn: list[np.ndarray[Any, np.dtype[np.bool_]]] = []

    def gaussian(self, count: int, scale: float) -> torch.Tensor:
        self.normals.append(super().gaussian(count, scale))
        return self.normals[-1]

    def chosen(self, count: int, probability: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
        self.drawn.append(super().chosen(count, probability))
        return self.drawn[-1]


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
    for drawn, share in zip(tape.drawn, rates, strict=True):
        chosen = [records[i] for i in np.flatnonzero(drawn)]
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        for example in other.encode(chosen):
            gradient = torch.autograd.grad(other.losses([example]).sum(), parameters)
            norm = float(torch.cat([part.flatten() for part in gradient]).norm())
            sums = [total + part * min(1.0, 0.1 / norm) for total, part in zip(sums, gradient, strict=True)]
        for parameter, total, first in zip(parameters, sums, start, strict=True):
            parameter.grad = (total + GRID.step * next(normals).view_as(total)) / 3
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


class Repeating(SecureNoise):
    """The fault to be caught: the same noise in every step."""

    def gaussian(self, count: int, scale: float) -> torch.Tensor:
        return (scale * torch.randn(count, generator=torch.Generator().manual_seed(7))).long()


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
        noise = GRID.step * torch.cat(tape.normals).view(4, -1)
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

    def losses(self, examples: Sequence[Any], size: tuple[int, ...] | None = None) -> torch.Tensor:
        losses = super().losses(examples, size)
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

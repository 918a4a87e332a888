"""A record's gradient is the same to the bit in every company, so that a clip bounds all that it changes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import pytest
import torch

from fedllm.config import AdapterConfig
from fedllm.errors import TrainingError
from fedllm.models.adapter import attach
from fedllm.models.base import load_base, resolve_base
from fedllm.privacy.grid import Grid
from fedllm.tasks.causal import CausalLearner
from fedllm.tasks.load import wording_of
from fedllm.training.dp import clipped_sums
from fedllm.training.learner import Learner, Shape
from fedllm.training.passes import Passes
from fedllm.training.per_example import per_example_gradients
from fedllm.training.precision import accelerator
from tests.tiers import by_tier
from tests.training.learners import TASK, Pictures, learner_and_records

Precision = Literal["fp32", "bf16"]
GRID = Grid(0.1, 0.1)
MOST = (0.1 / GRID.step) ** 2  # what a clipped gradient's squares come to, in steps
CHAT = TASK.model_copy(
    update={"kind": "chat", "fields": {"text": "text", "answer": "answer"}, "template": "{text}"}
)
WORDS = ("a", "so", "well", "no", "fun", "day", "lovely", "great", "awful", "quite", "utterly", "end")


class Longest(CausalLearner):
    """The fault to be caught: padded to the longest of those who are there, as it was up to 0.1."""

    def shape(self, example: object) -> Shape:
        del example
        return Shape((), 64)

    def losses(self, examples: Sequence[Any], size: tuple[int, ...] | None = None) -> torch.Tensor:
        del size
        longest, most = max(one.length for one in examples), max(len(one.answer) for one in examples)
        return super().losses(examples, (longest, most))


def text_learner(kind: type[CausalLearner], method: Literal["ffa-lora", "lora"]) -> CausalLearner:
    model, tokenizer = load_base(resolve_base("tiny"))
    adapted = attach(model, AdapterConfig(method=method), 7)
    learner = kind(adapted, tokenizer, CHAT, wording_of(tokenizer, CHAT))
    drawn = torch.randn(learner.shared.layout.size, generator=torch.Generator().manual_seed(7))
    learner.shared.write(learner.shared.read() + 0.3 * drawn)
    return learner


@contextmanager
def passes_of(learner: Learner, precision: Precision) -> Iterator[Passes]:
    engine = accelerator(precision)
    with per_example_gradients(learner, engine) as gradients:
        yield Passes(learner, gradients, engine)


def changed(learner: Learner, passes: Passes, batch: Sequence[Sequence[Any]], one: int) -> tuple[float, bool]:
    """What leaving a unit of a batch out changes: squares in steps, and whether it is that unit alone."""

    def summed(units: Sequence[Sequence[Any]]) -> torch.Tensor:
        return torch.cat([part.flatten() for part in clipped_sums(learner, passes, units, GRID)])

    change = summed(batch) - summed([unit for at, unit in enumerate(batch) if at != one])
    return float((change**2).sum()), torch.equal(change, summed([batch[one]]))


def batches(learner: Learner, seed: int) -> Iterator[list[list[Any]]]:
    """Random batches of up to eight units of a record or a few, short ones and long ones."""
    chance = np.random.default_rng(seed)

    def words(most: int) -> str:
        return " ".join(chance.choice(WORDS, chance.integers(1, most)))

    while True:
        sizes = [
            int(chance.integers(1, 4)) if chance.random() < 0.2 else 1 for _ in range(chance.integers(1, 9))
        ]
        yield [learner.encode({"text": words(30), "answer": words(6)} for _ in range(size)) for size in sizes]


@by_tier(few=25, many=1000, parts=2)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["ffa-lora", "lora"])
def test_a_unit_changes_the_sum_by_its_own_clipped_gradient_and_by_nothing_else(
    method: Literal["ffa-lora", "lora"], precision: Precision, part: int, count: int
) -> None:
    learner = text_learner(CausalLearner, method)
    drawn = batches(learner, part)
    chance = np.random.default_rng(part)
    with passes_of(learner, precision) as passes:
        for _ in range(count):
            batch = next(drawn)
            squares, its_own = changed(learner, passes, batch, int(chance.integers(len(batch))))
            assert its_own
            assert 0 < squares <= MOST


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_padded_to_the_longest_moves_other_records_and_is_not_trained(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = text_learner(Longest, "lora")
    with pytest.raises(TrainingError, match="depend"), passes_of(learner, precision):
        pass
    monkeypatch.setattr(Passes, "_must_be_full", lambda *_: False)
    drawn = batches(learner, 0)
    with passes_of(learner, precision) as passes:
        found = [changed(learner, passes, next(drawn), 0) for _ in range(25)]
    assert not all(its_own for _, its_own in found)
    if precision == "bf16":  # in fp32 it is some 1e-9 of the clip, which its margin for rounding may take in
        assert max(squares for squares, _ in found) > MOST


class ByTheRows(Pictures):
    """A kernel that looks at the number of rows."""

    def losses(self, examples: Sequence[Any], size: tuple[int, ...] | None = None) -> torch.Tensor:
        return super().losses(examples, size) * (1 + 1e-5 * len(examples))


class ByThePlace(Pictures):
    """A kernel whose rows are not alike."""

    def losses(self, examples: Sequence[Any], size: tuple[int, ...] | None = None) -> torch.Tensor:
        losses = super().losses(examples, size)
        return losses * (1 + 0.01 * torch.arange(len(losses)))


def test_where_the_number_of_rows_matters_every_pass_has_the_same() -> None:
    learner, records = ByTheRows(), learner_and_records("cnn")[1]
    seen: list[int] = []
    units = [[example] for example in learner.encode(records)]
    with passes_of(learner, "fp32") as passes:
        losses = learner.losses
        learner.losses = lambda examples, size=None: (seen.append(len(examples)), losses(examples, size))[1]  # type: ignore[method-assign]
        for one in range(len(units)):
            squares, its_own = changed(learner, passes, units, one)
            assert its_own
            assert squares <= MOST
    assert set(seen) == {4}


@pytest.mark.parametrize(
    ("precision", "then"), [("fp32", "another device"), ("bf16", "local.precision: fp32")]
)
def test_where_the_place_matters_nothing_is_trained(precision: Precision, then: str) -> None:
    learner = ByThePlace()
    start = learner.read()
    with (
        pytest.raises(TrainingError, match=f"in {precision} depends .*: .*{then}"),
        passes_of(learner, precision),
    ):
        pass
    assert torch.equal(learner.read(), start)

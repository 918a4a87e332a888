"""Gradients by example against a loop over single records, and a model that is left as it was."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from fedllm.config import LocalConfig
from fedllm.errors import TrainingError
from fedllm.protocol.terms import PrivateTerms
from fedllm.tasks.loss import LOSS
from fedllm.training.dp import train_privately
from fedllm.training.evaluate import evaluate
from fedllm.training.learner import Learner
from fedllm.training.local import train
from fedllm.training.per_example import per_example_gradients
from fedllm.training.precision import accelerator
from tests.training.learners import RECORDS, TASK, Pictures, learner_and_records, text_learner

FP32 = LocalConfig(precision="fp32", steps=1)


def by_hooks(learner: Learner, examples: Sequence[Any]) -> list[torch.Tensor]:
    with per_example_gradients(learner, accelerator("fp32")) as gradients:
        return gradients(examples, largest(learner, examples))


def largest(learner: Learner, examples: Sequence[Any]) -> tuple[int, ...]:
    """A size that all examples fit."""
    return tuple(map(max, zip(*(learner.shape(one).size for one in examples), strict=True)))


def one_by_one(learner: Learner, examples: Sequence[Any]) -> list[torch.Tensor]:
    """What an example alone in its batch has for a gradient, by autograd."""
    rows = [torch.autograd.grad(learner.losses([one]).sum(), learner.shared.trainable) for one in examples]
    return [torch.stack(tensor) for tensor in zip(*rows, strict=True)]


@pytest.mark.parametrize("kind", ["ffa-lora", "lora", "cnn"])
def test_gradients_are_those_of_a_loop_over_single_records(kind: str) -> None:
    learner, records = learner_and_records(kind)
    examples = learner.encode(records)
    alone = one_by_one(learner, examples)
    for found, due in zip(by_hooks(learner, examples), alone, strict=True):
        assert due.abs().max() > 1e-3  # there is something to compare
        torch.testing.assert_close(found, due, atol=1e-5, rtol=1e-5)


def test_answers_of_different_lengths_do_not_weigh_on_each_other() -> None:
    task = TASK.model_copy(
        update={"kind": "chat", "fields": {"text": "text", "answer": "answer"}, "template": "{text}"}
    )
    learner = text_learner(task=task)
    answers = ["yes", "I would not say so, and neither would you", "no", "perhaps"]
    records = [{"text": "well?", "answer": answer} for answer in answers]
    examples = learner.encode(records)
    alone = one_by_one(learner, examples)
    for found, due in zip(by_hooks(learner, examples), alone, strict=True):
        torch.testing.assert_close(found, due, atol=1e-5, rtol=1e-5)


def test_a_record_keeps_its_gradient_in_whatever_company_it_is() -> None:
    learner = text_learner()
    first, *others = learner.encode(RECORDS)
    alone = by_hooks(learner, [first])
    among = by_hooks(learner, [*others, first])
    for small, large in zip(alone, among, strict=True):
        torch.testing.assert_close(large[-1], small[0], atol=1e-5, rtol=1e-5)


class MeanOverTheBatch(Pictures):
    """The fault of a loss that transformers computes: a mean over all there is."""

    def losses(self, examples: Sequence[Any], size: tuple[int, ...] | None = None) -> torch.Tensor:
        losses = super().losses(examples, size)
        return losses.mean().expand(len(losses)) / len(losses)


class OneNumber(Pictures):
    """The same fault, plainer."""

    def losses(self, examples: Sequence[Any], size: tuple[int, ...] | None = None) -> torch.Tensor:
        return super().losses(examples, size).mean()


def test_the_loop_over_single_records_catches_a_mean_over_the_batch() -> None:
    learner = MeanOverTheBatch()
    examples = learner.encode(learner_and_records("cnn")[1])
    for found, due in zip(by_hooks(learner, examples), one_by_one(learner, examples), strict=True):
        assert (found - due).abs().max() > 0.1 * due.abs().max()


def test_a_loss_that_is_not_one_an_example_is_refused() -> None:
    learner = OneNumber()
    with pytest.raises(TrainingError, match="losses for 6 examples"):
        by_hooks(learner, learner.encode(learner_and_records("cnn")[1]))


def test_bf16_gives_one_gradient_an_example_near_the_exact_one() -> None:
    learner = text_learner()
    examples = learner.encode(RECORDS)
    with per_example_gradients(learner, accelerator("bf16")) as gradients:
        rounded = torch.cat(
            [part.flatten(1) for part in gradients(examples, largest(learner, examples))], dim=1
        )
    exact = torch.cat([part.flatten(1) for part in one_by_one(learner, examples)], dim=1)
    assert rounded.dtype == torch.float32
    assert ((rounded - exact).norm(dim=1) < 0.05 * exact.norm(dim=1)).all()


def traces(learner: Learner) -> list[str]:
    """What hooks could leave behind."""
    found = []
    for name, module in learner.model.named_modules():
        hooks = [*module._forward_hooks, *module._backward_hooks, *module._forward_pre_hooks]
        left = [
            key
            for key in ("activations", "max_batch_len", "autograd_grad_sample_hooks")
            if key in vars(module)
        ]
        found += [f"{name}: {each}" for each in [*hooks, *left, *(["training"] if module.training else [])]]
    for name, parameter in learner.model.named_parameters():
        found += [f"{name}: {key}" for key in vars(parameter) if "grad" in key or "forward" in key]
        found += [f"{name}: grad"] if parameter.grad is not None else []
    return found


@pytest.mark.parametrize("kind", ["ffa-lora", "cnn"])
def test_nothing_is_left_on_the_model(kind: str) -> None:
    learner, records = learner_and_records(kind)
    before = traces(learner)
    by_hooks(learner, learner.encode(records))
    assert traces(learner) == before == []


class Breaks(Pictures):
    """Fails between the passes, as a machine out of memory would."""

    def losses(self, examples: Sequence[Any], size: tuple[int, ...] | None = None) -> torch.Tensor:
        super().losses(examples, size)
        raise MemoryError


def test_nothing_is_left_on_the_model_after_a_failure() -> None:
    learner = Breaks()
    with pytest.raises(MemoryError):
        by_hooks(learner, learner.encode(learner_and_records("cnn")[1]))
    assert traces(learner) == []


def test_a_warm_model_trains_and_answers_without_privacy_as_if_never_hooked() -> None:
    ends = []
    for private_first in (True, False):
        learner = text_learner()
        start = learner.shared.read()
        if private_first:
            terms = PrivateTerms(unit="record", sampling_rate=0.5, noise_multiplier=1.0, clip=1.0)
            train_privately(learner, RECORDS, FP32, terms, steps=2, round_number=1, rounds=1)
            learner.shared.write(start)
        train(learner, RECORDS, FP32, steps=2, round_number=1, rounds=1, seed=7)
        ends.append(
            (learner.shared.read(), evaluate(learner, RECORDS, {"loss": LOSS.compute}).metrics["loss"])
        )
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


def test_a_shared_tensor_that_the_loss_does_not_reach_is_refused() -> None:
    learner = Pictures()
    learner.model.append(torch.nn.Linear(3, 3))
    idle = learner.model[-1]
    learner.trainable = list(learner.model.parameters())
    learner.model[-1] = torch.nn.Identity()
    learner.model.idle = torch.nn.ModuleList([idle])
    learner.model.forward = lambda pictures: _through(learner.model, pictures)  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="no per-example gradient"):
        by_hooks(learner, learner.encode(learner_and_records("cnn")[1]))


def _through(model: torch.nn.Sequential, pictures: torch.Tensor) -> torch.Tensor:
    for name, module in model.named_children():
        pictures = module(pictures) if name != "idle" else pictures
    return pictures


def test_a_tensor_that_trains_and_is_not_shared_is_refused() -> None:
    learner = Pictures()
    learner.trainable = learner.trainable[:-1]
    with pytest.raises(TrainingError, match="other tensors than it shares"):
        by_hooks(learner, [])


def test_a_layer_that_mixes_examples_is_refused() -> None:
    learner = Pictures()
    learner.model.insert(1, torch.nn.BatchNorm2d(4).eval())
    learner.trainable = list(learner.model.parameters())
    with pytest.raises(TrainingError, match="cannot compute this model's per-example gradients"):
        by_hooks(learner, [])
    assert traces(learner) == []

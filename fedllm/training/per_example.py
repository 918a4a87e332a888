"""Each example's own gradient, by opacus' hooks on the model as it is."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from fedllm.errors import TrainingError
from fedllm.training.learner import Learner


class PerExample(Protocol):
    """At least one example to gradients: for every shared tensor in order (examples, *shape), fp32."""

    def __call__(self, examples: Sequence[Any], size: tuple[int, ...]) -> list[torch.Tensor]:
        """Pad to the size of a `Shape`, as `Learner.losses` does."""


@contextmanager
def per_example_gradients(learner: Learner, engine: Any) -> Iterator[PerExample]:  # noqa: ANN401 - untyped
    """Let a model tell each example's gradient apart; whatever happens inside, it is left as it was.

    Modules stay in evaluation mode, so that there is no dropout. With bf16 autocast a gradient is computed in
    bf16 and returned in fp32: all that follows bounds and sums the number that is there.

    Args:
        learner: on its device.
        engine: an Accelerator.

    Yields:
        The function.

    Raises:
        TrainingError: opacus has no way to this model's gradients, or they are not those of the shared part.
    """
    model, shared = learner.model, learner.shared.trainable
    if {id(p) for p in model.parameters() if p.requires_grad} != {id(p) for p in shared}:
        raise TrainingError(
            "the model trains other tensors than it shares: their gradients would not be hidden"
        )
    # The hooks look away from modules that are not in training mode: those of the shared tensors have to be.
    owners = [m for m in model.modules() if any(p.requires_grad for p in m.parameters(recurse=False))]
    modes = [owner.training for owner in owners]
    hooks = _attach(model)

    def gradients(examples: Sequence[Any], size: tuple[int, ...]) -> list[torch.Tensor]:
        with engine.autocast():
            losses = learner.losses(examples, size)  # (examples,)
        if losses.shape != (len(examples),):
            raise TrainingError(f"the task gives {tuple(losses.shape)} losses for {len(examples)} examples")
        engine.backward(losses.sum())
        return [_take(parameter, len(examples)) for parameter in shared]

    try:
        for owner in owners:
            owner.training = True
        yield gradients
    finally:
        hooks.cleanup()
        for owner, mode in zip(owners, modes, strict=True):
            owner.training = mode
            for left in ("activations", "max_batch_len"):  # of a pass that did not come to its end
                if hasattr(owner, left):
                    delattr(owner, left)
        for parameter in shared:
            parameter.grad = None


def _attach(model: torch.nn.Module) -> Any:  # noqa: ANN401 - opacus is untyped
    handlers = list(logging.root.handlers)
    from opacus.grad_sample import GradSampleHooks

    logging.root.handlers[:] = handlers  # opacus sets the whole process' logging up when it is imported
    # That the lowest shared tensor's module has inputs without gradients is as it should be.
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    if faults := GradSampleHooks.validate(model):
        raise TrainingError(f"opacus cannot tell this model's examples apart: {faults[0]}")
    return GradSampleHooks(model, loss_reduction="sum")


def _take(parameter: torch.nn.Parameter, count: int) -> torch.Tensor:
    """What the hooks left at one tensor: (count, *shape), fp32."""
    found = getattr(parameter, "grad_sample", None)
    parameter.grad_sample = None  # type: ignore[attr-defined]  # opacus' own
    parameter.grad = None
    # A known fault trains nothing while loss and epsilon look right (meta-pytorch/opacus#820).
    if not isinstance(found, torch.Tensor) or found.shape != (count, *parameter.shape):
        raise TrainingError(
            f"opacus found no gradient by example for a shared tensor of shape {tuple(parameter.shape)}: "
            "the model does not use it, or uses it in a way that opacus does not see"
        )
    return found.float()

"""Per-example gradients by opacus' hooks, without wrapping the model."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from fedllm.errors import TrainingError
from fedllm.training.learner import Learner


class PerExample(Protocol):
    """Gradients of at least one example: for each shared tensor in order (examples, *shape), fp32."""

    def __call__(self, examples: Sequence[Any], size: tuple[int, ...]) -> list[torch.Tensor]:
        """Compute them with examples padded to the size of a `Shape`, as `Learner.losses` does."""


@contextmanager
def per_example_gradients(learner: Learner, engine: Any) -> Iterator[PerExample]:  # noqa: ANN401 - untyped
    """Attach hooks for per-example gradients; restores the model on exit, also after an exception.

    Modules stay in evaluation mode, so that there is no dropout. With bf16 autocast a gradient is computed in
    bf16 and returned in fp32; clip and sum use the returned values.

    Args:
        learner: on its device.
        engine: an Accelerator.

    Yields:
        The function that computes the gradients.

    Raises:
        TrainingError: opacus does not support the model, or the model trains other tensors than it shares.
    """
    model, shared = learner.model, learner.shared.trainable
    if {id(p) for p in model.parameters() if p.requires_grad} != {id(p) for p in shared}:
        raise TrainingError(
            "the model trains other tensors than it shares: their gradients would not be private"
        )
    # The hooks skip modules that are not in training mode: the owners of shared tensors have to be in it.
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
            for name in ("activations", "max_batch_len"):  # left by a pass that failed
                if hasattr(owner, name):
                    delattr(owner, name)
        for parameter in shared:
            parameter.grad = None


def _attach(model: torch.nn.Module) -> Any:  # noqa: ANN401 - opacus is untyped
    handlers = list(logging.root.handlers)
    from opacus.grad_sample import GradSampleHooks

    logging.root.handlers[:] = handlers  # importing opacus configures the logging of the whole process
    # The module of the lowest shared tensor has inputs without gradients by design.
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    if faults := GradSampleHooks.validate(model):
        raise TrainingError(f"opacus cannot compute this model's per-example gradients: {faults[0]}")
    return GradSampleHooks(model, loss_reduction="sum")


def _take(parameter: torch.nn.Parameter, count: int) -> torch.Tensor:
    """Return and clear one tensor's gradients from the hooks: (count, *shape), fp32."""
    gradients = getattr(parameter, "grad_sample", None)
    parameter.grad_sample = None  # type: ignore[attr-defined]  # an attribute of opacus
    parameter.grad = None
    # With a known bug nothing is trained while loss and epsilon look right (meta-pytorch/opacus#820).
    if not isinstance(gradients, torch.Tensor) or gradients.shape != (count, *parameter.shape):
        raise TrainingError(
            f"opacus found no per-example gradient for a shared tensor of shape {tuple(parameter.shape)}: "
            "the model does not use it, or uses it in a way that opacus does not see"
        )
    return gradients.float()

"""A site's training in one round: optimizer steps on its own records."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from fedllm.config import LocalConfig
from fedllm.data.records import Record
from fedllm.errors import DataError, TrainingError
from fedllm.training.batches import draw
from fedllm.training.learner import Learner
from fedllm.training.precision import accelerator

_ADAM_BETAS = (0.9, 0.999)


@dataclass(frozen=True)
class TrainingResult:
    """Optimizer steps done, records seen (with repeats), mean loss over the steps, seconds."""

    steps: int
    examples: int
    loss: float
    seconds: float


def silent(step: int, steps: int) -> None:
    """Ignore progress."""


def train(  # noqa: PLR0913 - a plan's terms, each named by the caller
    learner: Learner,
    records: Sequence[Record],
    local: LocalConfig,
    *,
    steps: int,
    round_number: int,
    rounds: int,
    seed: int,
    progress: Callable[[int, int], None] = silent,
) -> TrainingResult:
    """Train the shared part in place, from its present values.

    The loss is the unweighted mean over the batch's examples. The same seed, round and number of threads give
    the same bits.

    Args:
        learner: the model, whose present values are FedProx's anchor, and its task.
        records: the site's own.
        local: optimizer, schedule, batch size.
        steps: optimizer steps to do, at most `local.steps`; fewer where the site limits them.
        round_number: from 1; schedules span the whole federation.
        rounds: of the whole federation.
        seed: of the batches, with the round.
        progress: called after every step with (step, steps).

    Raises:
        DataError: there are no records, or the task cannot read one.
        TrainingError: the loss is not finite, or the adapter did not move.
    """
    if not records:
        raise DataError("no records to train on")
    start = time.perf_counter()
    engine = accelerator(local.precision)
    learner.model.to(engine.device)
    trainable = learner.shared.trainable
    drawn = _drawn_indices(len(records), local.batch_size, steps, (seed, round_number))
    examples = dict(zip(drawn, learner.encode([records[i] for i in drawn]), strict=True))
    anchor = [parameter.detach().clone() for parameter in trainable]
    optimizer = make_optimizer(trainable, local)
    total = 0.0
    # Batches are drawn again, one at a time: a plan's batches together are steps times batch_size numbers.
    for step, batch in enumerate(draw(len(records), local.batch_size, steps, (seed, round_number)), start=1):
        set_rate(optimizer, local, (round_number - 1) * local.steps + step, rounds * local.steps)
        optimizer.zero_grad(set_to_none=True)
        batch_examples = [examples[i] for i in batch]
        loss = 0.0
        for part in learner.split(batch_examples):
            with engine.autocast():
                share = learner.losses([batch_examples[i] for i in part]).sum() / len(batch_examples)
            engine.backward(share)
            loss += float(share.detach())
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss} at step {step}: lower local.lr, or look at the data")
        if local.prox_mu:
            pull(trainable, anchor, local.prox_mu)
        torch.nn.utils.clip_grad_norm_(trainable, local.max_grad_norm, error_if_nonfinite=False)
        optimizer.step()
        total += loss
        progress(step, steps)
    assert_moved(trainable, anchor)
    return TrainingResult(steps, steps * local.batch_size, total / steps, time.perf_counter() - start)


def _drawn_indices(count: int, batch_size: int, steps: int, seed: tuple[int, int]) -> Sequence[int]:
    """Return the indices that the round's batches contain: no other record needs to be tokenised."""
    if steps * batch_size >= count:
        return range(count)  # all are drawn once before any is drawn again
    return sorted({i for batch in draw(count, batch_size, steps, seed) for i in batch})


def rate(local: LocalConfig, step: int, steps: int) -> float:
    """Return the factor of `local.lr` at a step of `steps` in the whole federation, counted from 1."""
    if step <= local.warmup:
        return step / local.warmup
    done = (step - 1 - local.warmup) / max(1, steps - local.warmup)  # from 0 to just below 1
    if local.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    if local.schedule == "linear":
        return max(0.0, 1 - done)
    return 1.0


def set_rate(optimizer: torch.optim.Optimizer, local: LocalConfig, step: int, steps: int) -> None:
    """Set the learning rate for a step of `steps` in the whole federation, counted from 1."""
    for group in optimizer.param_groups:
        group["lr"] = local.lr * rate(local, step, steps)


def make_optimizer(parameters: list[torch.nn.Parameter], local: LocalConfig) -> torch.optim.Optimizer:
    """Make the optimizer that the plan names."""
    if local.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=local.lr, momentum=local.momentum, weight_decay=local.weight_decay
        )
    return torch.optim.AdamW(parameters, lr=local.lr, betas=_ADAM_BETAS, weight_decay=local.weight_decay)


def pull(parameters: list[torch.nn.Parameter], anchor: list[torch.Tensor], prox_mu: float) -> None:
    """Add the gradient of prox_mu/2 · ||w - w_round||² (FedProx, Li et al. 2020, eq. 2)."""
    for parameter, start in zip(parameters, anchor, strict=True):
        if parameter.grad is not None:
            parameter.grad.add_(parameter.detach() - start, alpha=prox_mu)


def assert_moved(parameters: list[torch.nn.Parameter], anchor: list[torch.Tensor]) -> None:
    """Raise `TrainingError` if training changed nothing, or left numbers that are not finite."""
    # A training that changes nothing can look right in every other respect.
    if all(
        torch.equal(parameter.detach(), start) for parameter, start in zip(parameters, anchor, strict=True)
    ):
        raise TrainingError("training did not change the adapter: raise local.lr or local.steps")
    if not all(bool(torch.isfinite(parameter).all()) for parameter in parameters):
        raise TrainingError("training produced numbers that are not finite: lower local.lr")

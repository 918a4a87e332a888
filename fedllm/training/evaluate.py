"""How good a model is on records whose answers are known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fedllm.data.records import Record, group_of
from fedllm.errors import DataError
from fedllm.training.learner import Learner
from fedllm.training.precision import accelerator


@dataclass(frozen=True)
class GroupMetrics:
    """One group's mean loss, share of right labels (None where there are none), and size."""

    loss: float
    accuracy: float | None
    count: int


@dataclass(frozen=True)
class Evaluation:
    """The same over all records, and by group."""

    loss: float
    accuracy: float | None
    count: int
    by_group: dict[str, GroupMetrics]
    losses: tuple[float, ...] = ()  # record by record, in their order
    right: tuple[bool | None, ...] = ()  # the same; None where no answer is the right one


def evaluate(
    learner: Learner, records: Sequence[Record], *, progress: Callable[[int], None] = lambda _done: None
) -> Evaluation:
    """Compare a model with records' answers.

    Args:
        learner: the model and its task.
        records: with answers; those without the field `silo` are one group, `all`.
        progress: called before every batch with the number of records judged so far; what it raises ends
            the evaluation.

    Raises:
        DataError: no records, or one that the task cannot read.
    """
    if not records:
        raise DataError("no records to evaluate on")
    losses, right = judged(learner, learner.encode(records), progress)
    names = [group_of(record) for record in records]
    groups = {
        name: _metrics([i for i, mine in enumerate(names) if mine == name], losses, right)
        for name in sorted(set(names))
    }
    every = _metrics(list(range(len(records))), losses, right)
    return Evaluation(every.loss, every.accuracy, every.count, groups, tuple(losses), tuple(right))


def judged(
    learner: Learner, examples: Sequence[Any], progress: Callable[[int], None] = lambda _done: None
) -> tuple[list[float], list[bool | None]]:
    """Each example's loss, and whether its answer is right (None where no answer is); `progress` as above."""
    engine = accelerator("auto")
    learner.model.to(engine.device)
    losses = [0.0] * len(examples)
    right: list[bool | None] = [None] * len(examples)
    done = 0
    for rows in learner.quizzes(examples):
        progress(done)
        with torch.inference_mode(), engine.autocast():
            found, correct = learner.judge([examples[i] for i in rows])
        for row, i in enumerate(rows):
            losses[i] = found[row]
            right[i] = correct[row] if correct is not None else None
        done += len(rows)
    return losses, right


def predict(learner: Learner, records: Sequence[Record | str]) -> list[str]:
    """Answer texts or records, in the number format that this machine computes best."""
    engine = accelerator("auto")
    learner.model.to(engine.device)
    with torch.inference_mode(), engine.autocast():
        return learner.predict(records)


def _metrics(rows: list[int], losses: list[float], right: list[bool | None]) -> GroupMetrics:
    loss = sum(losses[i] for i in rows) / len(rows)
    judged = [answer for i in rows if (answer := right[i]) is not None]
    accuracy = sum(judged) / len(judged) if judged else None
    return GroupMetrics(loss, accuracy, len(rows))

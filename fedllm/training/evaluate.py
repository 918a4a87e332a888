"""How good a model is on records whose answers are known."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from fedllm.data.records import Record, group_of
from fedllm.errors import DataError
from fedllm.training.learner import Learner
from fedllm.training.precision import accelerator

Given = TypeVar("Given")
Made = TypeVar("Made")


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
        progress: called before the first batch and after each one with the number of records judged so
            far; what it raises ends the evaluation.

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
    batches = learner.split(examples)

    def judge(rows: list[int]) -> tuple[list[float], list[bool] | None]:
        with torch.inference_mode(), engine.autocast():
            return learner.judge([examples[i] for i in rows])

    done = 0
    progress(done)
    for rows, (found, correct) in zip(batches, _on_cores(judge, batches, engine.device.type), strict=True):
        for row, i in enumerate(rows):
            losses[i] = found[row]
            right[i] = correct[row] if correct is not None else None
        done += len(rows)
        progress(done)
    return losses, right


def _on_cores(do: Callable[[Given], Made], each: Sequence[Given], device: str) -> Iterator[Made]:
    """Results in order, one piece of work per core at a time.

    A small model's operations are too short to be split between cores: threads that wait for each other took
    1.7 to 2 times the processor time, and beside sites that train on the same cores 2 to 3 times the seconds.
    """
    cores = torch.get_num_threads()
    if device != "cpu" or cores == 1 or len(each) == 1:
        yield from map(do, each)
        return
    # PyTorch's number of threads is each thread's own, and that of threads that begin later.
    pool = ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(do, each)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)


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

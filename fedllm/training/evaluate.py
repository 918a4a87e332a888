"""How good a model is on records whose answers are known."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from fedllm.data.records import Record, group_of
from fedllm.errors import DataError
from fedllm.training.judged import Judged
from fedllm.training.learner import Learner
from fedllm.training.precision import accelerator

Given = TypeVar("Given")
Made = TypeVar("Made")


Compute = Callable[[Sequence[Judged]], float]  # a metric over records, at least one


@dataclass(frozen=True)
class GroupMetrics:
    """One group's metrics by name, and its size."""

    metrics: dict[str, float]
    count: int


@dataclass(frozen=True)
class Evaluation:
    """The same over all records, and by group."""

    metrics: dict[str, float]
    count: int
    by_group: dict[str, GroupMetrics]
    judged: tuple[Judged, ...] = ()  # record by record, in their order


def evaluate(
    learner: Learner,
    records: Sequence[Record],
    metrics: Mapping[str, Compute],
    *,
    progress: Callable[[int], None] = lambda _done: None,
) -> Evaluation:
    """Compare a model with records' answers.

    Args:
        learner: the model and its task.
        records: with answers; those without the field `silo` are one group, `all`.
        metrics: what to compute of the judged records, by name.
        progress: called before the first batch and after each one with the number of records judged so
            far; what it raises ends the evaluation.

    Raises:
        DataError: no records, or one that the task cannot read.
    """
    if not records:
        raise DataError("no records to evaluate on")
    every = judged(learner, learner.encode(records), progress)
    by_name: dict[str, list[Judged]] = {}
    for record, one in zip(records, every, strict=True):
        by_name.setdefault(group_of(record), []).append(one)

    def of(rows: Sequence[Judged]) -> GroupMetrics:
        return GroupMetrics({name: compute(rows) for name, compute in metrics.items()}, len(rows))

    groups = {name: of(rows) for name, rows in sorted(by_name.items())}
    return Evaluation(of(every).metrics, len(records), groups, tuple(every))


def losses(learner: Learner, examples: Sequence[Any]) -> list[float]:
    """Each example's loss."""
    return [one.loss for one in judged(learner, examples)]


def judged(
    learner: Learner, examples: Sequence[Any], progress: Callable[[int], None] = lambda _done: None
) -> list[Judged]:
    """Each example's judgement; `progress` as above."""
    engine = accelerator("auto")
    learner.model.to(engine.device)
    by_row: dict[int, Judged] = {}
    batches = learner.split(examples)

    def judge(rows: list[int]) -> list[Judged]:
        with torch.inference_mode(), engine.autocast():
            return learner.judge([examples[i] for i in rows])

    progress(len(by_row))
    for rows, batch in zip(batches, _on_cores(judge, batches, engine.device.type), strict=True):
        by_row.update(zip(rows, batch, strict=True))
        progress(len(by_row))
    return [by_row[i] for i in range(len(examples))]


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

"""Evaluate a model on records with known answers."""

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

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

Compute = Callable[[Sequence[Judged]], float]  # a metric over at least one record


@dataclass(frozen=True)
class GroupMetrics:
    """Metrics of one group by name, and its number of records."""

    metrics: dict[str, float]
    count: int


@dataclass(frozen=True)
class Evaluation:
    """Metrics over all records, and by group."""

    metrics: dict[str, float]
    count: int
    by_group: dict[str, GroupMetrics]
    judged: tuple[Judged, ...] = ()  # one per record, in order


def evaluate(
    learner: Learner,
    records: Sequence[Record],
    metrics: Mapping[str, Compute],
    *,
    progress: Callable[[int], None] = lambda _done: None,
) -> Evaluation:
    """Evaluate a model on records with answers.

    Args:
        learner: the model and its task.
        records: with answers; records without the field `silo` form the group `all`.
        metrics: functions of the judged records, by metric name.
        progress: called before the first batch and after each batch with the number of records judged so
            far; an exception that it raises ends the evaluation.

    Returns:
        The metrics over all records and by group, and each record's judgement.

    Raises:
        DataError: there are no records, or the task cannot read one.
    """
    if not records:
        raise DataError("no records to evaluate on")
    results = judged(learner, learner.encode(records), progress)
    by_name: dict[str, list[Judged]] = {}
    for record, result in zip(records, results, strict=True):
        by_name.setdefault(group_of(record), []).append(result)

    def measure(rows: Sequence[Judged]) -> GroupMetrics:
        return GroupMetrics({name: compute(rows) for name, compute in metrics.items()}, len(rows))

    groups = {name: measure(rows) for name, rows in sorted(by_name.items())}
    return Evaluation(measure(results).metrics, len(records), groups, tuple(results))


def losses(learner: Learner, examples: Sequence[Any]) -> list[float]:
    """Return each example's loss."""
    return [one.loss for one in judged(learner, examples)]


def judged(
    learner: Learner, examples: Sequence[Any], progress: Callable[[int], None] = lambda _done: None
) -> list[Judged]:
    """Judge each example; `progress` as for `evaluate`."""
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


def _on_cores(function: Callable[[_Item], _Result], items: Sequence[_Item], device: str) -> Iterator[_Result]:
    """Yield the results in order; on a CPU each core computes one item at a time.

    A small model's operations are too short to be split between cores: threads that wait for each other took
    1.7 to 2 times the processor time, and beside sites that train on the same cores 2 to 3 times the seconds.
    """
    cores = torch.get_num_threads()
    if device != "cpu" or cores == 1 or len(items) == 1:
        yield from map(function, items)
        return
    # PyTorch's number of threads applies to the calling thread and to threads that start later.
    pool = ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)


def predict(learner: Learner, records: Sequence[Record | str]) -> list[str]:
    """Answer texts or records, in the number format that is fastest on this machine."""
    engine = accelerator("auto")
    learner.model.to(engine.device)
    with torch.inference_mode(), engine.autocast():
        return learner.predict(records)

"""DP-SGD on a site's own records (Abadi et al. 2016, arXiv 1607.00133).

Each step draws every unit independently, clips its contribution to the sum of gradients, adds noise and
divides by a public number. Momentum, Adam and FedProx use only the noised gradients. The result discloses
nothing else about the records: no loss, no count, and no error for an unreadable record.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedllm.config import LocalConfig
from fedllm.data.records import Record
from fedllm.privacy.grid import Grid
from fedllm.privacy.noise import NoiseSource, SecureNoise
from fedllm.protocol.terms import PrivateTerms
from fedllm.training.learner import Learner
from fedllm.training.local import assert_moved, make_optimizer, pull, set_rate, silent
from fedllm.training.passes import Passes
from fedllm.training.per_example import per_example_gradients
from fedllm.training.precision import accelerator

log = logging.getLogger(__name__)

_GROUP_EXAMPLES = 64  # most examples of a group of persons whose gradients are held at once


@dataclass(frozen=True)
class PrivateResult:
    """Steps done, and seconds, which only the site's own time record uses."""

    steps: int
    seconds: float


def train_privately(  # noqa: PLR0913 - a plan's terms, each named by the caller
    learner: Learner,
    records: Sequence[Record],
    local: LocalConfig,
    terms: PrivateTerms,
    *,
    steps: int,
    round_number: int,
    rounds: int,
    progress: Callable[[int, int], None] = silent,
    noise: NoiseSource | None = None,
) -> PrivateResult:
    """Train the shared part in place, from its present values, by Poisson-sampled Gaussian mechanisms.

    In each step, adding or removing one unit changes the sum by at most `terms.clip`, and the noise on every
    number has the standard deviation `terms.noise_multiplier * terms.clip`. A step that draws no unit is
    also done and counted.

    Args:
        learner: the model, whose present values are FedProx's anchor, and its task.
        records: the site's own. Records that the task cannot read, or that name no person where the person
            is the unit, are left out; only the site's log notes it, because an error would disclose them.
        local: optimizer, schedule; `batch_size` is the public denominator. `max_grad_norm` has no effect.
        terms: the unit, its sampling rate, clip and noise.
        steps: mechanisms to run, at most `local.steps`; fewer where the site limits them.
        round_number: from 1; schedules span the whole federation.
        rounds: of the whole federation.
        progress: called after every step with (step, steps).
        noise: source of the sampling and of the noise; default: a fresh cryptographic one.

    Raises:
        ModelError: the task does not fit the model.
        TrainingError: gradients cannot be computed per example, or depend on the other examples of a pass;
            or the adapter did not move.
    """
    start = time.perf_counter()
    source = SecureNoise() if noise is None else noise
    engine = accelerator(local.precision)
    learner.model.to(engine.device)
    learner.encode([])  # raises if the task does not fit the model, which discloses nothing of the records
    trainable = learner.shared.trainable
    anchor = [parameter.detach().clone() for parameter in trainable]
    optimizer = make_optimizer(trainable, local)
    grid = Grid(terms.clip, terms.noise_multiplier * terms.clip)
    units = units_of(records, terms)
    readable = _Readable(learner, records)
    with per_example_gradients(learner, engine) as gradients:
        passes = Passes(learner, gradients, engine)
        for step in range(1, steps + 1):
            set_rate(optimizer, local, (round_number - 1) * local.steps + step, rounds * local.steps)
            drawn = [readable.examples(unit) for unit in draw_units(units, terms, source)]
            noised = grid.hide(clipped_sums(learner, passes, drawn, grid), source)
            for parameter, hidden in zip(trainable, noised, strict=True):
                parameter.grad = (hidden / local.batch_size).float()
            if local.prox_mu:
                pull(trainable, anchor, local.prox_mu)
            optimizer.step()
            progress(step, steps)
    assert_moved(trainable, anchor)
    return PrivateResult(steps, time.perf_counter() - start)


def units_of(records: Sequence[Record], terms: PrivateTerms) -> list[list[int]]:
    """Return the units of privacy, each as the indices of its records.

    Where persons are the units, records without a person's name belong to no unit: together they would form
    one unit that several people share.
    """
    if terms.unit != "person":
        return [[index] for index in range(len(records))]
    people: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        if name := record.get(terms.unit_field or "", "").strip():
            people.setdefault(name, []).append(index)
    return list(people.values())


def draw_units(
    units: Sequence[Sequence[int]], terms: PrivateTerms, chance: NoiseSource
) -> list[Sequence[int]]:
    """Draw each unit with probability q (Poisson sampling), and at most `max_per_person` of its records."""
    drawn = np.flatnonzero(chance.chosen(len(units), terms.sampling_rate)).tolist()
    return [_bounded(units[i], terms.max_per_person, chance) for i in drawn]


def clipped_sums(
    learner: Learner, passes: Passes, units: Sequence[Sequence[Any]], grid: Grid
) -> list[torch.Tensor]:
    """Sum the units' clipped gradients; a unit's term is the same to the bit whichever others are drawn.

    Args:
        learner: owner of the shared part.
        passes: over the learner's examples.
        units: the examples of each unit; a unit's gradient is the sum of its examples' gradients.
        grid: clips and rounds.

    Returns:
        For each shared tensor the sum in steps of the grid, (*shape), int64; zeros without examples.
    """
    sums = grid.sum_clipped([one.new_zeros(0, *one.shape) for one in learner.shared.trainable])
    for single in _by_unit(learner, passes, [unit for unit in units if unit]):
        for total, part in zip(sums, grid.sum_clipped(single), strict=True):
            total.add_(part)
    return sums


def _by_unit(
    learner: Learner, passes: Passes, units: Sequence[Sequence[Any]]
) -> Iterator[list[torch.Tensor]]:
    """Yield the gradients of some whole units at a time: for each tensor (units, *shape)."""
    if all(len(unit) == 1 for unit in units):
        for _, single in passes([unit[0] for unit in units]):
            yield single
        return
    for group in _groups(units):
        examples = [example for unit in group for example in unit]
        owners = [number for number, unit in enumerate(group) for _ in unit]
        totals = [parameter.new_zeros(len(group), *parameter.shape) for parameter in learner.shared.trainable]
        for rows, single in passes(examples):
            for at, row in enumerate(rows):  # one by one: only the order within a unit matters then
                for total, part in zip(totals, single, strict=True):
                    total[owners[row]] += part[at]
        yield totals


def _groups(units: Sequence[Sequence[Any]]) -> Iterator[list[Sequence[Any]]]:
    group: list[Sequence[Any]] = []
    for unit in units:
        if group and sum(map(len, group)) + len(unit) > _GROUP_EXAMPLES:
            yield group
            group = []
        group.append(unit)
    yield group


def _bounded(unit: Sequence[int], most: int, chance: NoiseSource) -> Sequence[int]:
    if len(unit) <= most:
        return unit
    return [unit[i] for i in np.argsort(chance.uniform(len(unit)))[:most]]


class _Readable:
    """Records as examples, each encoded when it is first drawn."""

    def __init__(self, learner: Learner, records: Sequence[Record]) -> None:
        self._learner, self._records = learner, records
        self._encoded: dict[int, list[Any]] = {}

    def examples(self, indices: Sequence[int]) -> list[Any]:
        """Return the records at `indices` as examples, without the unreadable ones."""
        return [example for index in indices for example in self._encode(index)]

    def _encode(self, index: int) -> list[Any]:
        if index not in self._encoded:
            try:
                self._encoded[index] = self._learner.encode([self._records[index]])
            except Exception as error:  # noqa: BLE001 - no record may affect another unit's term
                log.warning("a record is left out: %s", error)
                self._encoded[index] = []
        return self._encoded[index]

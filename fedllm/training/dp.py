"""DP-SGD on a site's own records (Abadi et al. 2016, arXiv 1607.00133).

A step draws each unit by itself, bounds what every one of them adds to the sum of gradients, adds noise and
divides by a public number. All that follows, momentum, Adam, FedProx, is computed from what is hidden by now.
Of the records themselves nothing is told: no loss, no count, and no error for one that cannot be read.
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

_AT_ONCE = 64  # examples of persons whose sums are held at once


@dataclass(frozen=True)
class PrivateResult:
    """Steps that were done; seconds, for the site's own account of its time alone."""

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
    """Train the shared part in place by `steps` Poisson-sampled Gaussian mechanisms, from where it stands.

    For each, adding or removing one unit changes the sum by at most `terms.clip`, and the noise on every
    number has the standard deviation `terms.noise_multiplier * terms.clip`. Each step is done and counts,
    also one that draws nobody.

    Args:
        learner: the model, whose present values are FedProx's anchor, and its task.
        records: the site's own. Those that the task cannot read, or that name no person where one is the
            unit, are left out, and none but the site's log hears of it: an error would tell of them.
        local: optimizer, schedule; `batch_size` is the public denominator. `max_grad_norm` has no meaning.
        terms: the unit, its sampling rate, clip and noise.
        steps: mechanisms to run, at most `local.steps` where a site accepts less.
        round_number: from 1; schedules span the federation, so they need it.
        rounds: of the whole federation.
        progress: called after every step with (step, steps).
        noise: source of the sampling and of the noise; a fresh cryptographic one if it is not given.

    Raises:
        ModelError: the task does not fit the model.
        TrainingError: gradients that cannot be told apart by example, or that depend on the examples beside
            them; or an adapter that did not move.
    """
    begun = time.perf_counter()
    chance = SecureNoise() if noise is None else noise
    engine = accelerator(local.precision)
    learner.model.to(engine.device)
    learner.encode([])  # fails for a task that does not fit the model: that is no secret of the records
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
            drawn = [readable.examples(unit) for unit in draw_units(units, terms, chance)]
            noised = grid.hide(clipped_sums(learner, passes, drawn, grid), chance)
            for parameter, hidden in zip(trainable, noised, strict=True):
                parameter.grad = (hidden / local.batch_size).float()
            if local.prox_mu:
                pull(trainable, anchor, local.prox_mu)
            optimizer.step()
            progress(step, steps)
    assert_moved(trainable, anchor)
    return PrivateResult(steps, time.perf_counter() - begun)


def units_of(records: Sequence[Record], terms: PrivateTerms) -> list[list[int]]:
    """The units of privacy as indices of their records.

    Records without a person's name are in none where persons are the units: together they would be one that
    several people share.
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
    """Draw each unit by itself with probability q (Poisson sampling), and some of its records at random."""
    drawn = np.flatnonzero(chance.chosen(len(units), terms.sampling_rate)).tolist()
    return [_bounded(units[i], terms.max_per_person, chance) for i in drawn]


def clipped_sums(
    learner: Learner, passes: Passes, units: Sequence[Sequence[Any]], grid: Grid
) -> list[torch.Tensor]:
    """The sum over units of each one's clipped gradient, which is the same to the bit whoever the others are.

    Args:
        learner: whose shared part it is.
        passes: over the learner's examples.
        units: each one's examples; its gradient is the sum of theirs.
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
    """Whole units' gradients, some units at a time: for each tensor (units, *shape)."""
    if all(len(unit) == 1 for unit in units):
        for _, single in passes([unit[0] for unit in units]):
            yield single
        return
    for group in _groups(units):
        examples = [example for unit in group for example in unit]
        owners = [number for number, unit in enumerate(group) for _ in unit]
        totals = [parameter.new_zeros(len(group), *parameter.shape) for parameter in learner.shared.trainable]
        for rows, single in passes(examples):
            for at, row in enumerate(rows):  # one after the other: a unit's own order is all that counts
                for total, part in zip(totals, single, strict=True):
                    total[owners[row]] += part[at]
        yield totals


def _groups(units: Sequence[Sequence[Any]]) -> Iterator[list[Sequence[Any]]]:
    group: list[Sequence[Any]] = []
    for unit in units:
        if group and sum(map(len, group)) + len(unit) > _AT_ONCE:
            yield group
            group = []
        group.append(unit)
    yield group


def _bounded(unit: Sequence[int], most: int, chance: NoiseSource) -> Sequence[int]:
    if len(unit) <= most:
        return unit
    return [unit[i] for i in np.argsort(chance.uniform(len(unit)))[:most]]


class _Readable:
    """Records as examples, made when they are first drawn."""

    def __init__(self, learner: Learner, records: Sequence[Record]) -> None:
        self._learner, self._records = learner, records
        self._made: dict[int, list[Any]] = {}

    def examples(self, indices: Sequence[int]) -> list[Any]:
        """As examples, but for records that cannot be."""
        return [example for index in indices for example in self._one(index)]

    def _one(self, index: int) -> list[Any]:
        if index not in self._made:
            try:
                self._made[index] = self._learner.encode([self._records[index]])
            except Exception as error:  # noqa: BLE001 - whatever a record does, others may not notice
                log.warning("a record is left out: %s", error)
                self._made[index] = []
        return self._made[index]

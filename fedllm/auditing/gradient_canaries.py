"""Gradient canaries: units whose gradient points at a single weight of the trained model.

Dirac canaries (Nasr et al. 2023, arXiv 2302.07956), the strongest where the adversary sees every step.
"""

import contextlib
import secrets
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from fedllm.config import LocalConfig
from fedllm.data.records import Record
from fedllm.errors import DataError, TrainingError
from fedllm.models.shared import SharedModel, read_flat
from fedllm.protocol.terms import PrivateTerms
from fedllm.training.judged import Judged
from fedllm.training.learner import Learner, Shape
from fedllm.training.local import rate

_STRENGTH = 2**10  # a canary's norm before clipping, in units of clip: no clipping is plain to see
_CANDIDATES = 8  # weights that are looked at for each canary
_FAINT = 0.05  # share of the learning rate below which a step's gradient drowns in rounding
_LOOKED = 64  # records whose gradients say which weights are quiet
FIELD = "fedllm-canary"  # of a canary's record: its number

_chance = secrets.SystemRandom()


@dataclass(frozen=True)
class _Place:
    """One number of one linear layer's trained weight."""

    layer: int
    row: int
    column: int
    start: int  # of the layer's weight in the shared vector
    end: int  # behind it
    flat: int  # where the number is there


@dataclass(frozen=True)
class _Marked:
    """An example that is a canary."""

    number: int


class GradientCanaries:
    """Canaries at weights of the trained linear layers, of those drawn the quieter ones; others hold none.

    A canary runs one linear layer of the model on an input with a single number in it, so that its gradient
    takes the very way of a record's: by unit, clipped, summed, noised.
    """

    def __init__(
        self, learner: Learner, records: Sequence[Record], local: LocalConfig, terms: PrivateTerms, count: int
    ) -> None:
        layers, places = _draw_places(learner, records, count)
        self.learner: Learner = MarkedLearner(learner, layers, places, terms.clip, records)
        self.records: Sequence[Record] = [
            own_unit({FIELD: str(number)}, terms, number) for number in range(count)
        ]
        self._shared, self._local, self._places = learner.shared, local, places
        self._of_one = terms.sampling_rate * terms.clip / local.batch_size  # what a step has of one, expected
        self._last = self._shared.read().double()
        self._sums = torch.zeros_like(self._last)  # of all steps' noised gradients, (layout.size,)
        self._speed = torch.zeros_like(self._last)
        self._gradient: torch.Tensor | None = None  # of the step before
        self._unrest = torch.zeros_like(self._last)  # squares of what gradients changed from step to step
        self._done = self._all = self._seen = 0  # steps before this round, of all rounds, and added up

    def begin(self, number: int, rounds: int) -> None:
        """A round begins where the one before it ended, its optimizer anew."""
        self._done, self._all = (number - 1) * self._local.steps, rounds * self._local.steps
        self._speed = torch.zeros_like(self._last)

    def observe(self, step: int) -> None:
        """Add this step's noised gradient, as far as fp32 still shows it in what the step moved."""
        now = self._shared.read().double()
        share = rate(self._local, self._done + step, self._all)
        speed = (self._last - now) / (self._local.lr * share)
        momentum = self._local.momentum if self._local.optimizer == "sgd" else 0.0
        gradient = speed - momentum * self._speed  # momentum is undone: all steps count alike
        self._last, self._speed = now, speed
        if share < _FAINT:
            return
        if self._gradient is not None:
            self._unrest += (gradient - self._gradient) ** 2
        self._sums += gradient
        self._seen += 1
        self._gradient = gradient

    def scores(self) -> list[float]:
        """The log-likelihood ratio of in and out, up to a factor, had every layer its own Gaussian noise.

        A layer's noise is told by how its weights' gradients change from step to step, since what the records
        say hardly does: a layer without noise gives itself away.
        """
        seen = self._sums[[place.flat for place in self._places]]  # (count,)
        # AdamW divides by what it saw: how far a canary moves it is not known beforehand.
        known = self._local.optimizer == "sgd"
        middle = self._of_one * self._seen / 2 if known else float(seen.mean())
        noise = {place.start: float(self._unrest[place.start : place.end].median()) for place in self._places}
        least = (1e-6 * middle) ** 2 + 1e-24
        return [
            (one - middle) / max(noise[place.start], least)
            for one, place in zip(seen.tolist(), self._places, strict=True)
        ]


class MarkedLearner:
    """A learner that knows gradient canaries beside its own records."""

    def __init__(
        self,
        inner: Learner,
        layers: Sequence[torch.nn.Linear],
        places: Sequence[_Place],
        clip: float,
        records: Sequence[Record],
    ) -> None:
        self.model, self._inner, self._layers, self._places = inner.model, inner, layers, places
        self._strength = _STRENGTH * clip
        # Runs where a canary has no record; its gradient is undone.
        self._beside = readable(inner, records, most=1)[0]

    @property
    def shared(self) -> SharedModel:
        """The very same shared part."""
        return self._inner.shared

    def encode(self, records: Iterable[Record]) -> list[Any]:
        """Records as the task has them, canaries as marks."""
        told = list(records)
        own = iter(self._inner.encode([record for record in told if FIELD not in record]))
        return [_Marked(int(record[FIELD])) if FIELD in record else next(own) for record in told]

    def split(self, examples: Sequence[Any]) -> list[list[int]]:
        """As the task does it."""
        return self._inner.split(self._plain(examples))

    def shape(self, example: Any) -> Shape:  # noqa: ANN401 - opaque
        """A record's own; a canary's is that of the record that runs beside it."""
        return self._inner.shape(self._plain([example])[0])

    def trials(self, count: int) -> list[list[Any]]:
        """As the task makes them up."""
        return self._inner.trials(count)

    def losses(self, examples: Sequence[Any], size: tuple[int, ...] | None = None) -> torch.Tensor:
        """A record's own loss; for a canary, one weight times the strength."""
        own = self._inner.losses(self._plain(examples), size)  # (batch,)
        marked = {
            row: self._places[one.number] for row, one in enumerate(examples) if isinstance(one, _Marked)
        }
        if not marked:
            return own
        kept = torch.ones_like(own)
        kept[list(marked)] = 0.0
        losses = own * kept
        for index in sorted({place.layer for place in marked.values()}):
            layer = self._layers[index]
            rows = {row: place for row, place in marked.items() if place.layer == index}
            inputs = torch.zeros(len(examples), layer.in_features, device=own.device)  # (batch, in)
            for row, place in rows.items():
                inputs[row, place.column] = self._strength
            outputs = layer(inputs).float()  # (batch, out)
            chosen = torch.zeros_like(outputs)
            for row, place in rows.items():
                chosen[row, place.row] = 1.0
            losses = losses + (outputs * chosen).sum(1)
        return losses

    def judge(self, examples: Sequence[Any]) -> list[Judged]:
        """As the task does it."""
        return self._inner.judge(self._plain(examples))

    def predict(self, records: Sequence[Record | str]) -> list[str]:
        """As the task does it."""
        return self._inner.predict(records)

    def _plain(self, examples: Sequence[Any]) -> list[Any]:
        return [self._beside if isinstance(one, _Marked) else one for one in examples]


def _draw_places(
    learner: Learner, records: Sequence[Record], count: int
) -> tuple[list[torch.nn.Linear], list[_Place]]:
    """Choose different weights: how many of each layer by chance, and there ones that records move little.

    The adversary knows every record but the canaries, so it may choose them by the records.
    """
    starts, start = {}, 0
    for parameter in learner.shared.trainable:
        starts[id(parameter)] = start
        start += parameter.numel()
    layers = [
        layer
        for layer in learner.model.modules()
        if isinstance(layer, torch.nn.Linear) and id(layer.weight) in starts
    ]
    sizes = [layer.weight.numel() for layer in layers]
    if sum(sizes) < count:
        raise TrainingError(
            f"the model trains {sum(sizes)} weights in linear layers: {count} canaries are too many for it"
        )
    loud = _summed_gradient(learner, records).abs()
    ends = list(accumulate(sizes))
    drawn = Counter(bisect_right(ends, chosen) for chosen in _chance.sample(range(ends[-1]), count))
    places = []
    for index, wanted in drawn.items():
        start = starts[id(layers[index].weight)]
        end = start + sizes[index]
        looked = _chance.sample(range(start, end), min(sizes[index], _CANDIDATES * wanted))
        for flat in sorted(looked, key=lambda at: float(loud[at]))[:wanted]:
            row, column = divmod(flat - start, layers[index].in_features)
            places.append(_Place(index, row, column, start, end, flat))
    return layers, places


def _summed_gradient(learner: Learner, records: Sequence[Record]) -> torch.Tensor:
    """The gradient of some records' losses together; (layout.size,)."""
    examples = readable(learner, _chance.sample(list(records), len(records)), most=_LOOKED)
    trainable = learner.shared.trainable
    summed = torch.zeros(learner.shared.layout.size)
    for rows in learner.split(examples):
        loss = learner.losses([examples[i] for i in rows]).sum()
        found = torch.autograd.grad(loss, trainable, allow_unused=True)
        pieces = [
            torch.zeros_like(one) if grad is None else grad
            for one, grad in zip(trainable, found, strict=True)
        ]
        summed += read_flat(pieces)
    return summed


def readable(learner: Learner, records: Iterable[Record], most: int) -> list[Any]:
    """The first so many examples of records that the task can read. Raises `DataError` when there is none."""
    found: list[Any] = []
    for record in records:
        if len(found) == most:
            break
        with contextlib.suppress(DataError):
            found += learner.encode([record])
    if not found:
        raise DataError("no record here can be read by the task: look at the data, or at task.fields")
    return found


def own_unit(record: dict[str, str], terms: PrivateTerms, number: int) -> dict[str, str]:
    """Where people are the units, a canary is a person of its own."""
    return record if terms.unit_field is None else record | {terms.unit_field: f"{FIELD}-{number}"}

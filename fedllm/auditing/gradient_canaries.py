"""Gradient canaries: units whose gradient is non-zero at a single weight of the trained model.

They are Dirac canaries (Nasr et al. 2023, arXiv 2302.07956), the strongest if the adversary sees every step.
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

_STRENGTH = 2**10  # a canary's norm before clipping, in units of clip: missing clipping becomes obvious
_CANDIDATES = 8  # candidate weights per canary
_FAINT = 0.05  # share of the learning rate below which rounding hides a step's gradient
_SAMPLED = 64  # records whose gradients show which weights are quiet
FIELD = "fedllm-canary"  # field of a canary's record that holds its number

_chance = secrets.SystemRandom()


@dataclass(frozen=True)
class _Place:
    """One number of one linear layer's trained weight."""

    layer: int
    row: int
    column: int
    start: int  # of the layer's weight in the shared vector
    end: int  # past the layer's weight
    flat: int  # the number's index in the shared vector


@dataclass(frozen=True)
class _Marked:
    """An encoded canary, in the place of a task's example."""

    number: int


class GradientCanaries:
    """Canaries at quiet weights of the trained linear layers.

    A canary runs one linear layer of the model on an input with a single non-zero number, so its gradient
    takes the same path as a record's: by unit, clipped, summed, noised.
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
        self._expected = terms.sampling_rate * terms.clip / local.batch_size  # of one canary, per step
        self._last = self._shared.read().double()
        self._sums = torch.zeros_like(self._last)  # of all steps' noised gradients, (layout.size,)
        self._speed = torch.zeros_like(self._last)
        self._gradient: torch.Tensor | None = None  # of the previous step
        self._jumps = torch.zeros_like(self._last)  # squared changes of the gradient between steps, summed
        self._done = self._all = self._counted = 0  # steps before this round, of all rounds, and in `_sums`

    def begin(self, number: int, rounds: int) -> None:
        """Start a round: the model continues, the optimizer is new."""
        self._done, self._all = (number - 1) * self._local.steps, rounds * self._local.steps
        self._speed = torch.zeros_like(self._last)

    def observe(self, step: int) -> None:
        """Add this step's noised gradient, recovered from how the step moved the weights in fp32."""
        now = self._shared.read().double()
        share = rate(self._local, self._done + step, self._all)
        speed = (self._last - now) / (self._local.lr * share)
        momentum = self._local.momentum if self._local.optimizer == "sgd" else 0.0
        gradient = speed - momentum * self._speed  # undo momentum: all steps count alike
        self._last, self._speed = now, speed
        if share < _FAINT:
            return
        if self._gradient is not None:
            self._jumps += (gradient - self._gradient) ** 2
        self._sums += gradient
        self._counted += 1
        self._gradient = gradient

    def scores(self) -> list[float]:
        """Return the log-likelihood ratio of in and out, up to a factor, with Gaussian noise per layer.

        A layer's noise is estimated from how its gradients change between steps, since the records' own
        gradient hardly changes. A layer without noise is exposed by this.
        """
        sums = self._sums[[place.flat for place in self._places]]  # (count,)
        # AdamW rescales gradients by their history, so a canary's effect is not known beforehand.
        sgd = self._local.optimizer == "sgd"
        middle = self._expected * self._counted / 2 if sgd else float(sums.mean())
        noise = {place.start: float(self._jumps[place.start : place.end].median()) for place in self._places}
        least = (1e-6 * middle) ** 2 + 1e-24
        return [
            (one - middle) / max(noise[place.start], least)
            for one, place in zip(sums.tolist(), self._places, strict=True)
        ]


class MarkedLearner:
    """A learner that handles gradient canaries besides its own records."""

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
        # Runs in the place of a canary's record; its gradient is masked out.
        self._stand_in = readable(inner, records, most=1)[0]

    @property
    def shared(self) -> SharedModel:
        """Return the inner learner's shared part."""
        return self._inner.shared

    def encode(self, records: Iterable[Record]) -> list[Any]:
        """Encode records by the task, and canaries as marks."""
        mixed = list(records)
        own = iter(self._inner.encode([record for record in mixed if FIELD not in record]))
        return [_Marked(int(record[FIELD])) if FIELD in record else next(own) for record in mixed]

    def split(self, examples: Sequence[Any]) -> list[list[int]]:
        """Split as the task does."""
        return self._inner.split(self._plain(examples))

    def shape(self, example: Any) -> Shape:  # noqa: ANN401 - opaque
        """Return a record's shape; for a canary, that of its stand-in record."""
        return self._inner.shape(self._plain([example])[0])

    def trials(self, count: int) -> list[list[Any]]:
        """Return the task's trials."""
        return self._inner.trials(count)

    def losses(self, examples: Sequence[Any], size: tuple[int, ...] | None = None) -> torch.Tensor:
        """Return a record's own loss; for a canary, one weight times the strength."""
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
            mask = torch.zeros_like(outputs)
            for row, place in rows.items():
                mask[row, place.row] = 1.0
            losses = losses + (outputs * mask).sum(1)
        return losses

    def judge(self, examples: Sequence[Any]) -> list[Judged]:
        """Judge as the task does."""
        return self._inner.judge(self._plain(examples))

    def predict(self, records: Sequence[Record | str]) -> list[str]:
        """Predict as the task does."""
        return self._inner.predict(records)

    def _plain(self, examples: Sequence[Any]) -> list[Any]:
        return [self._stand_in if isinstance(one, _Marked) else one for one in examples]


def _draw_places(
    learner: Learner, records: Sequence[Record], count: int
) -> tuple[list[torch.nn.Linear], list[_Place]]:
    """Choose distinct weights: a random number per layer, and within it ones that records move little.

    The adversary knows every record but the canaries, so the choice may depend on the records.
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
    per_layer = Counter(bisect_right(ends, drawn) for drawn in _chance.sample(range(ends[-1]), count))
    places = []
    for index, wanted in per_layer.items():
        start = starts[id(layers[index].weight)]
        end = start + sizes[index]
        candidates = _chance.sample(range(start, end), min(sizes[index], _CANDIDATES * wanted))
        for flat in sorted(candidates, key=lambda at: float(loud[at]))[:wanted]:
            row, column = divmod(flat - start, layers[index].in_features)
            places.append(_Place(index, row, column, start, end, flat))
    return layers, places


def _summed_gradient(learner: Learner, records: Sequence[Record]) -> torch.Tensor:
    """Return the summed gradient of up to 64 random records' losses; (layout.size,)."""
    examples = readable(learner, _chance.sample(list(records), len(records)), most=_SAMPLED)
    trainable = learner.shared.trainable
    summed = torch.zeros(learner.shared.layout.size)
    for rows in learner.split(examples):
        loss = learner.losses([examples[i] for i in rows]).sum()
        gradients = torch.autograd.grad(loss, trainable, allow_unused=True)
        pieces = [
            torch.zeros_like(one) if grad is None else grad
            for one, grad in zip(trainable, gradients, strict=True)
        ]
        summed += read_flat(pieces)
    return summed


def readable(learner: Learner, records: Iterable[Record], most: int) -> list[Any]:
    """Return up to `most` examples, of the first records that the task can read.

    Raises:
        DataError: The task can read no record.
    """
    examples: list[Any] = []
    for record in records:
        if len(examples) == most:
            break
        with contextlib.suppress(DataError):
            examples += learner.encode([record])
    if not examples:
        raise DataError("the task can read no record here: check the data and task.fields")
    return examples


def own_unit(record: dict[str, str], terms: PrivateTerms, number: int) -> dict[str, str]:
    """Return a canary's record as its own unit: with a person of its own if people are the units."""
    return record if terms.unit_field is None else record | {terms.unit_field: f"{FIELD}-{number}"}

"""Image classification on a small shared model: cross-entropy of the label, likeliest class."""

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedllm.config import AdapterConfig, TaskConfig
from fedllm.data.records import Record
from fedllm.errors import DataError, ModelError
from fedllm.models.scattering import SIDE, Scattering, as_pixels
from fedllm.models.vision import CLASSES, VisionModel, load_vision
from fedllm.training.judged import Judged
from fedllm.training.learner import Shape

_MICRO_BATCH = 50  # images: per-example gradients of more would not fit the processor's cache


@dataclass(frozen=True)
class Image:
    """A record's pixels in row-major order, and its class."""

    pixels: bytes
    label: int


class ImageLearner:
    """An image model with a task. It caches computed features for its lifetime."""

    def __init__(self, shared: VisionModel, task: TaskConfig) -> None:
        self._shared = shared
        self.model: Any = shared.model
        self.task = task
        self._classes = list(task.labels)
        if len(self._classes) != CLASSES:
            raise ModelError(f"task.labels: {len(self._classes)} labels, {shared.architecture} has {CLASSES}")
        self._features = Scattering() if shared.scatters else None

    @property
    def shared(self) -> VisionModel:
        """All weights."""
        return self._shared

    def encode(self, records: Iterable[Record]) -> list[Image]:
        """Decode records to pixels. Raises `DataError`."""
        return [self._image(record, labelled=True) for record in records]

    def split(self, examples: Sequence[Image]) -> list[list[int]]:
        """Split into micro-batches in the given order, small enough for per-example gradients."""
        return list(_chunks(len(examples), _MICRO_BATCH))

    def shape(self, example: Image) -> Shape:
        """Return the one shape of all images."""
        del example
        return Shape((), _MICRO_BATCH)

    def trials(self, count: int) -> list[list[Image]]:
        """Make images of random pixels. Their features are computed anew."""
        rng = np.random.default_rng(0)
        pixels = [rng.bytes(SIDE * SIDE) for _ in range(min(count, _MICRO_BATCH))]
        if self._features is not None:
            self._features.forget(pixels)
        return [[Image(one, number % CLASSES) for number, one in enumerate(pixels)]]

    def losses(self, examples: Sequence[Image], size: tuple[int, ...] | None = None) -> torch.Tensor:
        """Return each image's cross-entropy; fp32, (batch,)."""
        del size  # all images have the same
        logits = self._logits(examples)  # (batch, classes)
        labels = torch.tensor([image.label for image in examples], device=logits.device)
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none")

    def judge(self, examples: Sequence[Image]) -> list[Judged]:
        """Return each image's loss and likeliest class."""
        logits = self._logits(examples).cpu()  # (batch, classes)
        labels = torch.tensor([image.label for image in examples])
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        return [
            Judged(loss, self._classes[image.label], self._classes[likeliest])
            for loss, image, likeliest in zip(
                losses.tolist(), examples, logits.argmax(1).tolist(), strict=True
            )
        ]

    def predict(self, records: Sequence[Record | str]) -> list[str]:
        """Return the likeliest label of each record or base64 image."""
        field = self.task.fields["image"]
        rows = [{field: one} if isinstance(one, str) else one for one in records]
        images = [self._image(record, labelled=False) for record in rows]
        answers = []
        for chunk in _chunks(len(images), _MICRO_BATCH):
            logits = self._logits([images[i] for i in chunk])  # (batch, classes)
            answers += [self._classes[i] for i in logits.argmax(1).tolist()]
        return answers

    def probabilities(self, record: Record) -> None:
        """Return None: an image model answers with a label alone."""
        del record

    def _image(self, record: Record, *, labelled: bool) -> Image:
        where = f"record {record.get('id', '?')}"
        try:
            pixels = base64.b64decode(record[self.task.fields["image"]], validate=True)
        except KeyError:
            raise DataError(f"{where}: no field {self.task.fields['image']!r}") from None
        except (binascii.Error, ValueError):
            raise DataError(f"{where}: its image is not base64") from None
        if len(pixels) != SIDE * SIDE:
            raise DataError(f"{where}: its image has {len(pixels)} bytes, not {SIDE} x {SIDE}")
        label = record.get(self.task.fields["label"], "") if labelled else self._classes[0]
        if label not in self._classes:
            raise DataError(f"{where}: label {label!r} is not in task.labels")
        return Image(pixels, self._classes.index(label))

    def _logits(self, examples: Sequence[Image]) -> torch.Tensor:
        """Return fp32 logits, (batch, classes)."""
        pixels = [image.pixels for image in examples]
        device = next(self.model.parameters()).device
        if self._features is None:
            logits: torch.Tensor = self.model(as_pixels(pixels).unsqueeze(1).to(device)).float()
            return logits
        # One matrix is cheap in fp32, and autocast would round the whole model.
        with torch.autocast(device.type, enabled=False):
            exact: torch.Tensor = self.model(self._features(pixels).to(device))
            return exact


class _ImageTask:
    """A `Task` on small image models, whose weights are all trained and released."""

    def fresh(self, folder: Path, adapter: AdapterConfig, seed: int, task: TaskConfig) -> ImageLearner:
        """Load the model from its folder; adapter and seed have no effect."""
        del adapter, seed
        return ImageLearner(load_vision(folder), task)

    def released(self, folder: Path, adapter: Path | None, task: TaskConfig) -> ImageLearner:
        """Load the whole model from the released folder; there is no adapter."""
        del adapter
        return ImageLearner(load_vision(folder), task)


TASK = _ImageTask()


def _chunks(count: int, size: int) -> Iterator[list[int]]:
    for start in range(0, count, size):
        yield list(range(start, min(start + size, count)))

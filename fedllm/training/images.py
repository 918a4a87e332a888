"""Images on a small shared model: the cross-entropy of a label, the likeliest class."""

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedllm.config import TaskConfig
from fedllm.data.records import Record
from fedllm.errors import DataError, ModelError
from fedllm.models.vision import CHANNELS, CLASSES, FEATURES, SIDE, VisionModel

_AT_ONCE = 250  # images; larger batches leave the processor's cache, and take twice as long each
_GRADIENTS = 2**25  # numbers: single gradients that a micro-batch holds at the same time, 134 MB
_KEPT = 200_000  # images whose features are kept, 1.6 GB
_PER_IMAGE = 3  # channels that are normalised together: 147 values, as in Tramèr and Boneh 2021


@dataclass(frozen=True)
class Image:
    """A record's pixels, row by row, and its class."""

    pixels: bytes
    label: int


class ImageLearner:
    """An image model with a task. Features that it has computed are kept for as long as it lives."""

    def __init__(self, shared: VisionModel, task: TaskConfig) -> None:
        self._shared = shared
        self.model: Any = shared.model
        self.task = task
        self._classes = list(task.labels)
        if len(self._classes) != CLASSES:
            raise ModelError(f"task.labels: {len(self._classes)} labels, {shared.architecture} has {CLASSES}")
        self._transform: Any = _scattering() if shared.scatters else None
        self._kept: dict[bytes, torch.Tensor] = {}  # features by pixels: (3969,) fp16

    @property
    def shared(self) -> VisionModel:
        """All weights."""
        return self._shared

    def encode(self, records: Iterable[Record]) -> list[Image]:
        """Records as pixels. Raises `DataError`."""
        return [self._image(record, labelled=True) for record in records]

    def split(self, examples: Sequence[Image]) -> list[list[int]]:
        """Micro-batches in the order given, small enough for a gradient of each image."""
        most = max(1, min(_AT_ONCE, _GRADIENTS // self._shared.layout.size))
        return list(_chunks(len(examples), most))

    def losses(self, examples: Sequence[Image]) -> torch.Tensor:
        """Each image's cross-entropy; fp32, (batch,)."""
        logits = self._logits(examples)  # (batch, classes)
        labels = torch.tensor([image.label for image in examples], device=logits.device)
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none")

    def quizzes(self, examples: Sequence[Image]) -> Iterator[list[int]]:
        """Batches in the order given."""
        yield from _chunks(len(examples), _AT_ONCE)

    def judge(self, examples: Sequence[Image]) -> tuple[list[float], list[bool] | None]:
        """Each image's loss, and whether its class is the likeliest."""
        logits = self._logits(examples).cpu()  # (batch, classes)
        labels = torch.tensor([image.label for image in examples])
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        return losses.tolist(), (logits.argmax(1) == labels).tolist()

    def predict(self, records: Sequence[Record | str]) -> list[str]:
        """The label of each record, or of each base64 image."""
        field = self.task.fields["image"]
        asked = [{field: one} if isinstance(one, str) else one for one in records]
        images = [self._image(record, labelled=False) for record in asked]
        answers = []
        for rows in _chunks(len(images), _AT_ONCE):
            logits = self._logits([images[i] for i in rows])  # (batch, classes)
            answers += [self._classes[i] for i in logits.argmax(1).tolist()]
        return answers

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
        """(batch, classes), fp32."""
        pixels = [image.pixels for image in examples]
        device = next(self.model.parameters()).device
        if not self._shared.scatters:
            found: torch.Tensor = self.model(_pixels(pixels).to(device)).float()
            return found
        # One matrix costs next to nothing in fp32, and every digit of it is the model's.
        with torch.autocast(device.type, enabled=False):
            exact: torch.Tensor = self.model(self._features(pixels).to(device))
            return exact

    def _features(self, pixels: Sequence[bytes]) -> torch.Tensor:
        """Scattering features, (batch, 3969) fp32; those of an image that came before are not computed again.

        They are kept as fp16: they are normalised, and it costs no accuracy.
        """
        if len(self._kept) + len(pixels) > _KEPT:
            self._kept.clear()
        new = [image for image in dict.fromkeys(pixels) if image not in self._kept]
        for rows in _chunks(len(new), _AT_ONCE):
            part = [new[i] for i in rows]
            self._kept |= zip(part, self._scattered(part), strict=True)
        return torch.stack([self._kept[image] for image in pixels]).float()

    def _scattered(self, pixels: Sequence[bytes]) -> torch.Tensor:
        """Scattering features (Bruna and Mallat 2013), normalised by image in groups; (batch, 3969) fp16."""
        # What an evaluation computes may be trained on later, so these are no tensors of its inference mode.
        with torch.inference_mode(mode=False), torch.no_grad(), torch.autocast("cpu", enabled=False):
            found = self._transform(_pixels(pixels).squeeze(1))  # (batch, 81, 7, 7)
            return torch.nn.functional.group_norm(found, CHANNELS // _PER_IMAGE).reshape(-1, FEATURES).half()


def _pixels(images: Sequence[bytes]) -> torch.Tensor:
    flat = np.frombuffer(b"".join(images), np.uint8)
    return torch.from_numpy(flat.astype(np.float32) / 255).reshape(-1, 1, SIDE, SIDE)


def _chunks(count: int, size: int) -> Iterator[list[int]]:
    for start in range(0, count, size):
        yield list(range(start, min(start + size, count)))


def _scattering() -> Any:  # noqa: ANN401 - kymatio has no types
    """The transform of kymatio. Raises `ModelError` when it is not installed."""
    import scipy.special

    # kymatio imports a function that scipy no longer has, and calls it for three dimensions alone.
    absent = not hasattr(scipy.special, "sph_harm")
    if absent:
        scipy.special.sph_harm = None
    try:
        from kymatio.torch import Scattering2D
    except ModuleNotFoundError:
        raise ModelError("mnist-scattering needs kymatio: pip install 'fedllm[vision]'") from None
    finally:
        if absent:
            vars(scipy.special).pop("sph_harm", None)  # another thread may have been as far
    return Scattering2D(J=2, shape=(SIDE, SIDE))

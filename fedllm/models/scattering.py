"""Scattering features of images (kymatio): fixed wavelets, so that few trained weights need noise."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from fedllm.errors import ModelError
from fedllm.models.expansion import expand

SIDE = 28  # pixels
CHANNELS, CELLS = 81, 7  # of the transform with J = 2, L = 8: 81 channels of 7 x 7
FEATURES = CHANNELS * CELLS * CELLS
# The fixed computation before the first learned weight; parties with different ones cannot train together.
DEFINITION = (
    "Scattering2D J=2 L=8 of pixels in [0, 1]; 27 groups of 147 normalised, eps=1e-5; "
    "less the mean of 500 pen strokes, drawn from SHAKE256 of 7 and `strokes`"
)

_BATCH = 250  # images; larger batches exceed the processor's cache and take twice as long per image
_MOST_CACHED = 200_000  # images, 1.6 GB of features
_PER_GROUP = 3  # channels that are normalised together: 147 values, as in Tramèr and Boneh 2021
_STROKES = 500
_BOX = 18  # pixels: with the pen's width, digits of MNIST fill a box of 20


class Scattering:
    """Compute features of images and cache them by image."""

    def __init__(self) -> None:
        self._transform = _kymatio()
        self._cache: dict[bytes, torch.Tensor] = {}  # by pixels: (3969,) fp16
        # All images of handwriting share a large part of their features. It would use up most of a clipped
        # gradient and does not depend on the label. So it is subtracted, as estimated from random strokes,
        # which need no data.
        self._centre = self._normalised(strokes()).mean(0)  # (3969,)

    def __call__(self, images: Sequence[bytes]) -> torch.Tensor:
        """Return the features of images of 28 x 28 bytes: (images, 3969) fp32.

        The cache holds fp16: features are of the order of 1, and this costs no accuracy. Each row starts at a
        multiple of 64 bytes: libraries sum unaligned numbers in another order, so that results would depend
        on an image's place.
        """
        if len(self._cache) + len(images) > _MOST_CACHED:
            self._cache.clear()
        new = [image for image in dict.fromkeys(images) if image not in self._cache]
        for start in range(0, len(new), _BATCH):
            part = new[start : start + _BATCH]
            features = (self._normalised(as_pixels(part)) - self._centre).half()
            self._cache |= zip(part, features, strict=True)
        aligned = torch.empty(len(images), -(-FEATURES // 16) * 16)[:, :FEATURES]
        for row, image in zip(aligned, images, strict=True):
            row.copy_(self._cache[image])
        return aligned

    def forget(self, images: Sequence[bytes]) -> None:
        """Remove the features of these images from the cache."""
        for image in images:
            self._cache.pop(image, None)

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the transform (Bruna and Mallat 2013), normalised per image in groups; (images, 3969)."""
        with _one_thread(), torch.no_grad(), torch.autocast("cpu", enabled=False):
            starts = range(0, len(pixels), _BATCH)
            parts = [self._transform(pixels[i : i + _BATCH]) for i in starts]  # each (images, 81, 7, 7)
            return torch.nn.functional.group_norm(torch.cat(parts), CHANNELS // _PER_GROUP).flatten(1)


def as_pixels(images: Sequence[bytes]) -> torch.Tensor:
    """Scale images of 28 x 28 bytes to [0, 1]: (images, 28, 28) fp32."""
    flat = np.frombuffer(b"".join(images), np.uint8)
    return torch.from_numpy(flat.astype(np.float32) / 255).reshape(-1, SIDE, SIDE)


def strokes() -> torch.Tensor:
    """Draw two random cubic Bézier curves per image, scaled to a box and centred: (500, 28, 28) in [0, 1]."""
    drawn = expand(7, "strokes", (_STROKES, 17))
    uniform = drawn / drawn.abs().max() / 2 + 0.5  # (500, 17) in [0, 1]
    points = uniform[:, :16].reshape(_STROKES, 2, 1, 4, 2)
    t = torch.linspace(0, 1, 40).reshape(40, 1)
    weights = torch.cat([(1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3], 1)  # (40, 4)
    curve = (weights[:, :, None] * points).sum(3).flatten(1, 2)  # (500, 80, 2)
    size = (curve.amax(1) - curve.amin(1)).amax(1)[:, None, None]
    curve = curve / size * _BOX
    curve = curve - curve.mean(1, keepdim=True) + (SIDE - 1) / 2
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    grid = torch.stack([rows, columns], 2).reshape(-1, 2).float()  # (784, 2)
    distance = torch.cdist(grid, curve).amin(2)  # (500, 784)
    pen = 1.7 + 0.8 * uniform[:, 16:]  # pixels
    return (pen - distance).clamp(0, 1).reshape(-1, SIDE, SIDE)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: for such small images several threads are slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _kymatio() -> Any:  # noqa: ANN401 - kymatio has no types
    """Return kymatio's transform. Raises `ModelError` if kymatio is not installed."""
    import scipy.special

    # kymatio imports a function that scipy has removed, and calls it only in three dimensions.
    absent = not hasattr(scipy.special, "sph_harm")
    if absent:
        scipy.special.sph_harm = None
    try:
        from kymatio.torch import Scattering2D
    except ModuleNotFoundError:
        raise ModelError("mnist-scattering needs kymatio: pip install 'fedllm[vision]'") from None
    finally:
        if absent:
            vars(scipy.special).pop("sph_harm", None)  # another thread may have removed it
    return Scattering2D(J=2, shape=(SIDE, SIDE))

"""One flat tensor as a safetensors file with the single tensor `adapter`, in one encoding alone."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedllm.errors import RefusedError

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Format:
    """How a number is written."""

    name: str  # for people
    safetensors: str
    numpy: str
    width: int  # bytes


def write_tensor(values: "np.ndarray[Any, Any]", form: Format) -> bytes:
    """Write numbers of shape (n,); the same numbers always give the same bytes."""
    header = _header(values.size, form)
    body = values.astype(form.numpy, copy=False).tobytes()
    return len(header).to_bytes(8, "little") + header + body


def read_tensor(data: bytes, size: int, form: Format) -> "torch.Tensor":
    """Read what `write_tensor` wrote.

    Nothing is allocated on a header's word: the size is known beforehand, so that the only header that
    can be right is compared byte for byte.

    Args:
        data: the whole file.
        size: how many numbers it must hold.
        form: how each of them is written.

    Returns:
        (size,) fp32.

    Raises:
        RefusedError: anything but one finite tensor `adapter` of that size and format.
    """
    import numpy as np
    import torch

    header = _header(size, form)
    start = 8 + len(header)
    due = start + form.width * size
    if len(data) != due:
        raise RefusedError(f"payload: {len(data)} bytes, expected {due} for {size} numbers")
    if data[:8] != len(header).to_bytes(8, "little") or data[8:start] != header:
        raise RefusedError(
            f"payload: its header is not that of one {form.name} tensor `adapter` of shape [{size}]"
        )
    values = np.frombuffer(data, dtype=form.numpy, offset=start).astype("<f4")
    if not np.isfinite(values).all():
        raise RefusedError("payload: holds numbers that are not finite")
    return torch.from_numpy(values)


def _header(size: int, form: Format) -> bytes:
    offsets = [0, form.width * size]
    described = {"adapter": {"dtype": form.safetensors, "shape": [size], "data_offsets": offsets}}
    text = json.dumps(described, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)

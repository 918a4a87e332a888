"""fp16 (IEEE 754 binary16): half the bytes; what rounding takes away is added to the next update."""

import math
from typing import TYPE_CHECKING

from fedllm.errors import TrainingError
from fedllm.models.codec.tensor_file import Format, read_tensor, write_tensor

if TYPE_CHECKING:
    import torch

FP16 = Format("fp16", "F16", "<f2", 2)
LARGEST = 65504  # a number of 65520 or more would be rounded to infinity
_RELATIVE = 2.0**-11  # half a unit in the last place of 11 bits
_ABSOLUTE = 2.0**-25  # half the distance of two subnormal numbers, which lie below 2^-14


def encode(update: "torch.Tensor", residual: "torch.Tensor | None", /) -> tuple[bytes, "torch.Tensor"]:
    """Round update plus residual to the nearest half, ties to even.

    Args:
        update: (n,) fp32.
        residual: of the update before, (n,) fp32, or None.

    Returns:
        The bytes, and what rounding took away. That difference is exact in fp32: both numbers are multiples
        of the unrounded one's last place, and lie less than 2^24 of these apart.

    Raises:
        TrainingError: a number is beyond the format's range or not finite.
    """
    import numpy as np
    import torch

    whole = update if residual is None else update + residual
    values = whole.detach().to("cpu").float().contiguous().numpy()
    with np.errstate(over="ignore"):  # it is refused below
        halves = values.astype(FP16.numpy)
    if not np.isfinite(halves).all():
        raise TrainingError(
            f"the update holds a number beyond the {LARGEST} of fp16, or one that is not finite: "
            "lower local.lr, or use codec fp32"
        )
    return write_tensor(halves, FP16), torch.from_numpy(values - halves.astype("<f4"))


def decode(data: bytes, size: int, /) -> "torch.Tensor":
    """Read n halves as fp32, which holds each of them exactly."""
    return read_tensor(data, size, FP16)


def most_bytes(size: int, /) -> int:
    """Return the bytes of n numbers."""
    return FP16.width * size


def most_residual(norm: float, size: int, /) -> float:
    """Bound a residual.

    Rounding v to y leaves r = v - y with |r_i| <= 2^-11 |v_i| + 2^-25, so
    ||r|| <= 2^-11 ||v|| + 2^-25 sqrt(n). With ||v|| <= norm + ||r||, which holds for v = y + r and for
    v = update + former residual where that one keeps to the bound, this is the bound on ||r||.
    """
    return (_RELATIVE * norm + _ABSOLUTE * math.sqrt(size)) / (1 - _RELATIVE)

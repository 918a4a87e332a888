"""fp32: exact, four bytes per number. Every global model travels so, and updates by default."""

from typing import TYPE_CHECKING

from fedllm.models.codec.tensor_file import Format, read_tensor, write_tensor

if TYPE_CHECKING:
    import torch

FP32 = Format("fp32", "F32", "<f4", 4)


def encode_flat(flat: "torch.Tensor") -> bytes:
    """Write a flat vector of shape (n,) in fp32; the same bytes always."""
    return write_tensor(flat.detach().to("cpu").float().contiguous().numpy(), FP32)


def decode_flat(data: bytes, size: int) -> "torch.Tensor":
    """Read what `encode_flat` wrote.

    Args:
        data: the whole file.
        size: how many numbers it must hold.

    Returns:
        (size,) fp32.

    Raises:
        RefusedError: anything but one finite fp32 tensor `adapter` of that size.
    """
    return read_tensor(data, size, FP32)


def encode(update: "torch.Tensor", _residual: "torch.Tensor | None", /) -> tuple[bytes, None]:
    """Encode an update; nothing is lost, so no residual ever comes in or goes out."""
    return encode_flat(update), None


def decode(data: bytes, size: int, /) -> "torch.Tensor":
    """Decode an update; see `decode_flat`."""
    return decode_flat(data, size)


def most_bytes(size: int, /) -> int:
    """Return the bytes of n numbers."""
    return FP32.width * size


def most_residual(_norm: float, _size: int, /) -> float:
    """Return 0: nothing is lost."""
    return 0.0

"""The part of a model that travels: one flat vector, in an order that all parties share."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from fedllm.errors import ModelError, RefusedError


@dataclass(frozen=True)
class SharedLayout:
    """Which tensors are shared, in the order in which the flat vector holds them."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @cached_property
    def size(self) -> int:
        """How many numbers the flat vector has."""
        return sum(torch.Size(shape).numel() for shape in self.shapes)

    @cached_property
    def sha256(self) -> str:
        """Of the names and shapes as compact JSON, `[[name, [rows, columns]], …]`."""
        pairs = [[name, list(shape)] for name, shape in zip(self.names, self.shapes, strict=True)]
        return hashlib.sha256(json.dumps(pairs, separators=(",", ":")).encode()).hexdigest()


class SharedModel(Protocol):
    """A model whose shared tensors are read and written as one vector."""

    model: Any  # a torch module
    layout: SharedLayout
    frozen_sha256: str  # over what is expanded or kept and not shared

    @property
    def trainable(self) -> list[torch.nn.Parameter]:
        """The shared tensors, in the layout's order."""

    def read(self) -> torch.Tensor:
        """A copy of the shared tensors; fp32 on the CPU, (layout.size,)."""

    def write(self, flat: torch.Tensor) -> None:
        """Set the shared tensors from (layout.size,). Raises `ModelError` for another shape."""

    def save(self, folder: Path, base: str | None = None) -> None:
        """Write the files of a released version, the same bytes for the same model."""


def read_flat(parameters: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors as one fp32 vector on the CPU, a copy."""
    return torch.cat([part.detach().reshape(-1).to("cpu", torch.float32) for part in parameters])


def write_flat(parameters: Sequence[torch.Tensor], flat: torch.Tensor) -> None:
    """Set tensors from one vector. Raises `ModelError` when it has another size."""
    size = sum(part.numel() for part in parameters)
    if flat.shape != (size,):
        raise ModelError(f"the adapter takes {size} numbers, not a tensor of {tuple(flat.shape)}")
    with torch.no_grad():
        for part, piece in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
            part.copy_(piece.view_as(part))


def encode_flat(flat: torch.Tensor) -> bytes:
    """One flat fp32 vector as a safetensors file with the single tensor `adapter`; the same bytes always."""
    values = flat.detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4", copy=False)
    header = _header(values.size)
    return len(header).to_bytes(8, "little") + header + values.tobytes()


def decode_flat(data: bytes, size: int) -> torch.Tensor:
    """Read what `encode_flat` wrote.

    Nothing is allocated on a header's word: the size is known beforehand, so that the only header that
    can be right is compared byte for byte.

    Args:
        data: the whole file.
        size: how many numbers it must hold.

    Raises:
        RefusedError: anything but one finite fp32 tensor `adapter` of that size.
    """
    header = _header(size)
    start = 8 + len(header)
    if len(data) != start + 4 * size:
        raise RefusedError(f"payload: {len(data)} bytes where {start + 4 * size} are due for {size} numbers")
    if data[:8] != len(header).to_bytes(8, "little") or data[8:start] != header:
        raise RefusedError(f"payload: its header is not that of one fp32 tensor `adapter` of shape [{size}]")
    flat = torch.frombuffer(bytearray(memoryview(data)[start:]), dtype=torch.float32)
    if not bool(torch.isfinite(flat).all()):
        raise RefusedError("payload: holds numbers that are not finite")
    return flat


def _header(size: int) -> bytes:
    described = {"adapter": {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}}
    text = json.dumps(described, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)

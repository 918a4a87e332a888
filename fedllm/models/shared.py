"""The shared part of a model as one flat vector, in the same order for all parties."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from fedllm.errors import ModelError


@dataclass(frozen=True)
class SharedLayout:
    """The shared tensors, in the order of the flat vector."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @cached_property
    def size(self) -> int:
        """The length of the flat vector."""
        return sum(torch.Size(shape).numel() for shape in self.shapes)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the names and shapes as compact JSON, `[[name, [rows, columns]], …]`."""
        pairs = [[name, list(shape)] for name, shape in zip(self.names, self.shapes, strict=True)]
        return hashlib.sha256(json.dumps(pairs, separators=(",", ":")).encode()).hexdigest()


class SharedModel(Protocol):
    """A model whose shared tensors are read and written as one vector."""

    model: Any  # a torch module
    layout: SharedLayout
    frozen_sha256: str  # over the parts that are fixed and not shared

    @property
    def trainable(self) -> list[torch.nn.Parameter]:
        """The shared tensors, in the layout's order."""

    def read(self) -> torch.Tensor:
        """Return a copy of the shared tensors; fp32 on the CPU, (layout.size,)."""

    def write(self, flat: torch.Tensor) -> None:
        """Set the shared tensors from (layout.size,). Raises `ModelError` for another shape."""

    def save(self, folder: Path, base: str | None = None) -> None:
        """Write the files of a released version; the same model gives the same bytes."""


def read_flat(parameters: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return a copy of the tensors as one fp32 vector on the CPU."""
    return torch.cat([part.detach().reshape(-1).to("cpu", torch.float32) for part in parameters])


def write_flat(parameters: Sequence[torch.Tensor], flat: torch.Tensor) -> None:
    """Set tensors from one vector. Raises `ModelError` if its size differs."""
    size = sum(part.numel() for part in parameters)
    if flat.shape != (size,):
        raise ModelError(f"the adapter takes {size} numbers, not a tensor of {tuple(flat.shape)}")
    with torch.no_grad():
        for part, piece in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
            part.copy_(piece.view_as(part))

"""The noise of fedllm before 0.2, kept to be attacked: drawn in float64, rounded to fp32, added in fp32."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fedllm.privacy.noise import NoiseSource

_DRAWS = 4  # Gaussians that are summed to one


@dataclass(frozen=True)
class FormerGrid:
    """In the place of `fedllm.privacy.grid.Grid`: no grid at all."""

    clip: float
    std: float
    fine: int = 0

    def sum_clipped(self, gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        rows = [gradient.flatten(1) for gradient in gradients]
        norms = torch.stack([torch.linalg.vector_norm(row, dim=1, dtype=torch.float64) for row in rows])
        scale = (self.clip / norms.norm(dim=0).clamp(min=self.clip)).float()
        return [(scale @ row).view(like.shape[1:]) for row, like in zip(rows, gradients, strict=True)]

    def hide(self, sums: Sequence[torch.Tensor], _noise: NoiseSource) -> list[torch.Tensor]:
        return [part + _normal(part.numel(), self.std).view_as(part) for part in sums]


def _normal(count: int, std: float) -> torch.Tensor:
    """Sums of four of Box and Muller's, rounded to fp32 last."""
    total = sum(_box_muller(count + count % 2) for _ in range(_DRAWS))
    return torch.from_numpy((total * (std / math.sqrt(_DRAWS))).astype(np.float32)[:count])


def _box_muller(count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    words = np.frombuffer(os.urandom(8 * count), dtype=np.uint64) >> np.uint64(11)
    radii, angles = (words.astype(np.float64) * 2.0**-53).reshape(2, -1)
    radii, angles = np.sqrt(-2 * np.log(1 - radii)), 2 * math.pi * angles
    return np.concatenate([radii * np.cos(angles), radii * np.sin(angles)])

"""Chance that privacy rests on: from the operating system's entropy by AES-CTR, never from a seed."""

import math
import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_DRAWS = 4  # Gaussians that are summed to one
_BLOCK = 1 << 14  # numbers at once: what they need fits into a processor's cache


class NoiseSource(Protocol):
    """Where a mechanism's chance comes from."""

    def normal(self, shape: Sequence[int], std: float) -> torch.Tensor:
        """Independent Gaussians of mean 0; fp32 on the CPU."""

    def uniform(self, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Independent numbers from [0, 1), multiples of 2^-53; (count,)."""


class SecureNoise:
    """A cryptographic source: AES-256 in counter mode under a key of its own that nobody sees.

    The key is drawn when the object is made, and anew in a process that was forked from its own: no two
    objects and no two processes ever share a key, and no block of a key's stream is used twice. Nothing
    seeds it, so nothing repeats it. One thread at a time.
    """

    def __init__(self) -> None:
        self._rekey()

    def normal(self, shape: Sequence[int], std: float) -> torch.Tensor:
        """Independent Gaussians of mean 0, computed in float64 and rounded to fp32 last.

        One float64 Gaussian takes so few values that its low bits can betray what it was added to (Mironov
        2012). Each number here is the sum of four, of four different pairs of Box and Muller (1958): too
        many quadruples give the same sum to search (Holohan & Braghin 2021, arXiv 2107.10138).
        """
        drawn = torch.empty(math.prod(shape), dtype=torch.float32)
        for piece in torch.split(drawn, _BLOCK):
            even = piece.numel() + piece.numel() % 2
            total = _box_muller(self._bits(even))
            for _ in range(_DRAWS - 1):
                total += _box_muller(self._bits(even))
            piece.copy_(total[: piece.numel()].mul_(std / math.sqrt(_DRAWS)))
        return drawn.view(tuple(shape))

    def uniform(self, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Independent numbers from [0, 1) with 53 bits each; (count,)."""
        return self._bits(count) * 2.0**-53

    def _bits(self, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Whole numbers below 2^53 as float64, (count,)."""
        if self._home != _process():
            self._rekey()
        words = np.frombuffer(self._stream.update(bytes(8 * count)), dtype=np.uint64)
        return (words >> np.uint64(11)).astype(np.float64)

    def _rekey(self) -> None:
        # Under a key that is used for one stream alone the counter may start at zero.
        self._stream = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
        self._home = _process()


def _box_muller(bits: np.ndarray[Any, np.dtype[np.float64]]) -> torch.Tensor:
    """Turn whole numbers below 2^53, an even count of them, into as many standard Gaussians; float64."""
    radii, angles = torch.from_numpy(bits).mul_(2.0**-53).view(2, -1)  # both in [0, 1), (count / 2,)
    radii = (1 - radii).log_().mul_(-2).sqrt_()  # 1 - u is exact, and never zero
    angles.mul_(2 * math.pi)
    return torch.cat([angles.cos().mul_(radii), angles.sin_().mul_(radii)])


def _process() -> tuple[int, int]:
    """What differs between a process and those forked from it, whatever becomes of their ids."""
    return os.getpid(), len(_forks)


_forks: list[None] = []
os.register_at_fork(after_in_child=lambda: _forks.append(None))

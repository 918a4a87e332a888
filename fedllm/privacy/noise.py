"""Chance that privacy rests on: from the operating system's entropy by AES-CTR, never from a seed."""

import os
from typing import Any, Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedllm.privacy.rounded_gaussian import rounded_gaussians


class NoiseSource(Protocol):
    """Where a mechanism's chance comes from."""

    def gaussian(self, count: int, scale: float) -> torch.Tensor:
        """Independent Gaussians of standard deviation `scale`, rounded; int64 on the CPU, (count,)."""

    def chosen(self, count: int, probability: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Independent events of one probability; (count,)."""

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

    def gaussian(self, count: int, scale: float) -> torch.Tensor:
        """Independent Gaussians of mean 0, rounded to whole numbers, as `rounded_gaussians` has it."""
        return torch.from_numpy(rounded_gaussians(count, scale, self._words))

    def chosen(self, count: int, probability: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Independent events of one probability, to its last bit; (count,)."""
        if probability >= 1:
            return np.ones(count, dtype=np.bool_)
        below, left = divmod(probability * 2.0**64, 1.0)
        words = self._words(count)
        happened = words < np.uint64(below)
        for tie in np.flatnonzero(words == np.uint64(below)):
            happened[tie] = self.uniform(1)[0] < left
        return happened

    def uniform(self, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Independent numbers from [0, 1) with 53 bits each; (count,)."""
        return (self._words(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def _words(self, count: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """Random words of 64 bits, (count,)."""
        if self._home != _process():
            self._rekey()
        return np.frombuffer(self._stream.update(bytes(8 * count)), dtype=np.uint64)

    def _rekey(self) -> None:
        # Under a key that is used for one stream alone the counter may start at zero.
        self._stream = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
        self._home = _process()


def _process() -> tuple[int, int]:
    """What differs between a process and those forked from it, whatever becomes of their ids."""
    return os.getpid(), len(_forks)


_forks: list[None] = []
os.register_at_fork(after_in_child=lambda: _forks.append(None))

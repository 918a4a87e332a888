"""Draw the randomness of DP mechanisms: AES-CTR keyed by the operating system's entropy, never by a seed."""

import os
from typing import Any, Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedllm.privacy.rounded_gaussian import rounded_gaussians


class NoiseSource(Protocol):
    """The source of a mechanism's randomness."""

    def gaussian(self, count: int, scale: float) -> torch.Tensor:
        """Draw independent Gaussians of standard deviation `scale`, rounded; int64 on the CPU, (count,)."""

    def chosen(self, count: int, probability: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Draw independent booleans, each true with `probability`; (count,)."""

    def uniform(self, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Draw independent numbers from [0, 1), multiples of 2^-53; (count,)."""


class SecureNoise:
    """A cryptographic source: AES-256 in counter mode under a secret key of its own.

    Each object draws its own key, and a forked process draws a new one: no two objects or processes share a
    key, and no block of a key's stream is used twice. It cannot be seeded, so it never repeats. Not
    thread-safe.
    """

    def __init__(self) -> None:
        self._rekey()

    def gaussian(self, count: int, scale: float) -> torch.Tensor:
        """Draw independent Gaussians of mean 0, rounded to whole numbers: see `rounded_gaussians`."""
        return torch.from_numpy(rounded_gaussians(count, scale, self._words))

    def chosen(self, count: int, probability: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Draw independent booleans whose probability is exact to its last bit; (count,)."""
        if probability >= 1:
            return np.ones(count, dtype=np.bool_)
        threshold, rest = divmod(probability * 2.0**64, 1.0)
        words = self._words(count)
        chosen = words < np.uint64(threshold)
        for tie in np.flatnonzero(words == np.uint64(threshold)):
            chosen[tie] = self.uniform(1)[0] < rest
        return chosen

    def uniform(self, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Draw independent numbers from [0, 1) with 53 bits each; (count,)."""
        return (self._words(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def _words(self, count: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """Draw random 64-bit words, (count,)."""
        if self._keyed_in != _process():
            self._rekey()
        return np.frombuffer(self._stream.update(bytes(8 * count)), dtype=np.uint64)

    def _rekey(self) -> None:
        # The counter may start at zero: the key is used for one stream only.
        self._stream = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
        self._keyed_in = _process()


def _process() -> tuple[int, int]:
    """Return a value that differs between a process and its forks, even if process ids are reused."""
    return os.getpid(), len(_forks)


_forks: list[None] = []
os.register_at_fork(after_in_child=lambda: _forks.append(None))

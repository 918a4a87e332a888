"""Expand frozen matrices from a seed, to the same bits on every machine.

FFA-LoRA (Sun et al. 2024, arXiv 2403.12313) freezes LoRA's A at its random start and trains B alone: the
update is then linear in the shared part, so a weighted mean of B is the mean of the models. Every site needs
the same A. It is not sent but expanded:

1. SHAKE256 absorbs the bytes `fedllm.ffa-lora/1`, a zero byte, the seed as 8 bytes little-endian, and
   the tensor's name in UTF-8, as it stands in adapter_model.safetensors.
2. Its output is read as little-endian uint32 values u, one per number, in row-major order.
3. A number is (u >> 8) / 2**23 - 1, exact in fp32, times b in fp32: uniform over [-b, b).
4. b = fp32(sqrt(1 / in_features)), the bound of kaiming_uniform_(a=sqrt(5)), with which peft
   initialises A.
"""

import hashlib
import math

import numpy as np
import torch

_DOMAIN = b"fedllm.ffa-lora/1\x00"


def expand(seed: int, name: str, shape: tuple[int, int]) -> torch.Tensor:
    """Return the frozen matrix of that name.

    Args:
        seed: of the federation's plan, 0 or more, below 2**64.
        name: of the tensor.
        shape: (rank, in_features).

    Returns:
        fp32, (rank, in_features).
    """
    rank, in_features = shape
    xof = hashlib.shake_256(_DOMAIN + seed.to_bytes(8, "little") + name.encode())
    words = np.frombuffer(xof.digest(4 * rank * in_features), dtype="<u4")
    unit = (words >> 8).astype(np.float32) * np.float32(2**-23) - np.float32(1)
    bound = np.float32(math.sqrt(1 / in_features))
    return torch.from_numpy((unit * bound).reshape(rank, in_features))

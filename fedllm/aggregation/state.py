"""Encode the server optimiser's state as safetensors, in one canonical encoding."""

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from fedllm.errors import RefusedError

NAMES = frozenset({"m", "v"})


def encode_state(state: dict[str, torch.Tensor]) -> bytes:
    """Encode a state; the same tensors always give the same bytes.

    Args:
        state: float32 tensors of shape (n,) under `m` and `v`, or neither.

    Raises:
        RefusedError: a name, type or shape is another.
    """
    for name, tensor in state.items():
        _check(name, tensor)
    data: bytes = save({name: state[name].contiguous() for name in sorted(state)})
    return data


def decode_state(data: bytes, size: int) -> dict[str, torch.Tensor]:
    """Decode a state that `encode_state` wrote.

    Args:
        data: the bytes.
        size: n, the number of shared parameters.

    Returns:
        float32 tensors of shape (n,) by name.

    Raises:
        RefusedError: the bytes are not such a state, hold a number that is not finite or a negative `v`, or
            are not its canonical encoding (padding, metadata, another order).
    """
    try:
        read = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise RefusedError(
            f"the optimiser state is not a safetensors file: {' '.join(str(error).split())}"
        ) from None
    state = {name: tensor.clone() for name, tensor in read.items()}
    for name, tensor in state.items():
        _check(name, tensor)
        if tensor.numel() != size:
            raise RefusedError(f"the stored {name} has {tensor.numel()} values, the model {size}")
        if not torch.isfinite(tensor).all():
            raise RefusedError(f"the stored {name} holds numbers that are not finite")
    if "v" in state and bool((state["v"] < 0).any()):
        raise RefusedError("the stored v is negative: it is a sum of squares")
    if encode_state(state) != data:
        raise RefusedError("the optimiser state is not in its canonical encoding")
    return state


def _check(name: str, tensor: torch.Tensor) -> None:
    if name not in NAMES:
        raise RefusedError(f"an optimiser state has no tensor {name[:40]!r}")
    if tensor.dtype != torch.float32 or tensor.ndim != 1:
        raise RefusedError(f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}: expected flat float32")

"""Device and number format, by accelerate."""

from typing import Any, Literal

import torch


def accelerator(precision: Literal["auto", "bf16", "fp32"]) -> Any:  # noqa: ANN401 - accelerate is untyped
    """An Accelerator for what this machine has.

    `auto` is bf16 autocast where the processor computes in bf16 (AVX512-BF16, AMX, CUDA); elsewhere a
    CPU would only emulate it, slower than fp32.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # accelerate keeps one state a process and refuses another precision; a warm agent sees many plans.
    AcceleratorState._reset_state()  # noqa: SLF001 - there is no public way
    lowered = precision == "bf16" or (precision == "auto" and _computes_bf16())
    return Accelerator(mixed_precision="bf16" if lowered else "no")


def _computes_bf16() -> bool:
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))

"""Choose device and number format with accelerate."""

from typing import Any, Literal

import torch


def accelerator(precision: Literal["auto", "bf16", "fp32"]) -> Any:  # noqa: ANN401 - accelerate is untyped
    """Return an Accelerator for this machine's device.

    `auto` is bf16 autocast where the hardware computes in bf16 (AVX512-BF16, AMX, CUDA), else fp32: a CPU
    that emulates bf16 is slower.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # accelerate keeps one state per process and refuses another precision; a warm agent runs many plans.
    AcceleratorState._reset_state()  # noqa: SLF001 - there is no public way
    bf16 = precision == "bf16" or (precision == "auto" and _computes_bf16())
    return Accelerator(mixed_precision="bf16" if bf16 else "no")


def _computes_bf16() -> bool:
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))

"""LoRA adapters whose shared part is one flat vector."""

import hashlib
import json
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from fedllm.config import AdapterConfig
from fedllm.errors import ModelError, RefusedError
from fedllm.models.base import CausalModel
from fedllm.models.expansion import expand

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdapterLayout:
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


class AdaptedModel:
    """A base model with a LoRA adapter attached; made by `attach`.

    Attributes:
        model: the peft model, to be called as the base is.
        config: of the adapter.
        layout: of the shared tensors.
        frozen_sha256: over every A as it was at the start, in order of names.
    """

    def __init__(self, model: CausalModel, config: AdapterConfig, seed: int) -> None:
        self.model = model
        self.config = config
        self._factors: dict[str, torch.nn.Parameter] = _factors(model)
        hashed = hashlib.sha256()
        with torch.no_grad():
            for name, factor in self._factors.items():
                if ".lora_A." in name:
                    start = expand(seed, name, (factor.shape[0], factor.shape[1]))
                    hashed.update(start.numpy().tobytes())
                    factor.copy_(start)
                else:
                    factor.zero_()
        self.frozen_sha256 = hashed.hexdigest()
        shared = {
            name: factor
            for name, factor in self._factors.items()
            if config.method == "lora" or ".lora_B." in name
        }
        for name, factor in self._factors.items():
            factor.requires_grad_(name in shared)
        self._shared = list(shared.values())
        self.layout = AdapterLayout(tuple(shared), tuple(tuple(factor.shape) for factor in self._shared))

    @property
    def trainable(self) -> list[torch.nn.Parameter]:
        """The shared tensors, in the layout's order."""
        return self._shared

    def read(self) -> torch.Tensor:
        """The shared tensors as one fp32 vector on the CPU, a copy; shape (layout.size,)."""
        parts = [factor.detach().reshape(-1).to("cpu", torch.float32) for factor in self._shared]
        return torch.cat(parts)

    def write(self, flat: torch.Tensor) -> None:
        """Set the shared tensors from a vector of shape (layout.size,).

        Raises:
            ModelError: the vector has another shape.
        """
        if flat.shape != (self.layout.size,):
            raise ModelError(
                f"the adapter takes {self.layout.size} numbers, not a tensor of {tuple(flat.shape)}"
            )
        with torch.no_grad():
            pieces = torch.split(flat, [factor.numel() for factor in self._shared])
            for factor, piece in zip(self._shared, pieces, strict=True):
                factor.copy_(piece.view_as(factor))

    def save_peft(self, folder: Path, base: str | None = None) -> None:
        """Write a plain peft folder, the same bytes for the same adapter.

        Args:
            folder: made if it is not there.
            base: what adapter_config.json names as its base model; never a path of this machine.
        """
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        factors = {name: factor.detach().to("cpu").contiguous() for name, factor in self._factors.items()}
        save_file(factors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        described: dict[str, Any] = self.model.peft_config["default"].to_dict()
        described |= {"base_model_name_or_path": base, "inference_mode": True}
        # peft holds its targets as a set, whose order would change from process to process.
        text = json.dumps(described, indent=1, sort_keys=True, default=sorted)
        (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")

    def detach(self) -> CausalModel:
        """Take the adapter off; this object is of no use afterwards."""
        return self.model.unload()


def attach(model: CausalModel, config: AdapterConfig, seed: int) -> AdaptedModel:
    """Put a LoRA adapter on a base model, at the start that the seed fixes: A expanded, B zero.

    Args:
        model: from `load_base`; it is changed in place.
        config: rank, alpha, targets, layers; `ffa-lora` shares B, `lora` both A and B.
        seed: of the federation.

    Raises:
        ModelError: no module has the targets' names in the layers asked for.
    """
    from peft import LoraConfig, get_peft_model

    if config.method == "lora":
        log.warning("adapter.method lora averages A and B apart: that is not the average of the models")
    _check_targets(model, config)
    wanted = LoraConfig(
        r=config.rank,
        lora_alpha=int(config.alpha) if float(config.alpha).is_integer() else config.alpha,
        target_modules=list(config.targets),
        layers_to_transform=None if config.layers == "all" else list(config.layers),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, wanted)
    return AdaptedModel(adapted.eval(), config, seed)


def _check_targets(model: CausalModel, config: AdapterConfig) -> None:
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    ends = {name.rpartition(".")[2] for name in names}
    if missing := [target for target in config.targets if target not in ends]:
        raise ModelError(
            f"model.adapter.targets: no module is named {', '.join(missing)}; known: {sorted(ends)}"
        )
    count = int(model.config.num_hidden_layers)
    if config.layers != "all" and (wrong := [i for i in config.layers if not 0 <= i < count]):
        raise ModelError(f"model.adapter.layers: {wrong} are not among the layers 0 to {count - 1}")
    if config.layers == () or not config.targets:
        raise ModelError("model.adapter: needs at least one target and one layer")


def _factors(model: CausalModel) -> dict[str, torch.nn.Parameter]:
    """Every A and B by the name under which peft saves it, in order of names."""
    found = {
        name.replace(".default.weight", ".weight"): parameter
        for name, parameter in model.named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    }
    return dict(sorted(found.items()))


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

"""LoRA adapters whose shared part is one flat vector."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch

from fedllm.config import AdapterConfig
from fedllm.errors import ModelError
from fedllm.models.base import CausalModel, public_name
from fedllm.models.expansion import expand
from fedllm.models.shared import SharedLayout, read_flat, write_flat

log = logging.getLogger(__name__)


class AdaptedModel:
    """A base model with a LoRA adapter attached; made by `attach`.

    Attributes:
        model: the peft model, called like the base.
        config: of the adapter.
        layout: of the shared tensors.
        frozen_sha256: over every initial A, in order of names.
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
        self.layout = SharedLayout(tuple(shared), tuple(tuple(factor.shape) for factor in self._shared))

    @property
    def trainable(self) -> list[torch.nn.Parameter]:
        """The shared tensors, in the layout's order."""
        return self._shared

    def read(self) -> torch.Tensor:
        """Return a copy of the shared tensors as one fp32 vector on the CPU; shape (layout.size,)."""
        return read_flat(self._shared)

    def write(self, flat: torch.Tensor) -> None:
        """Set the shared tensors from a vector of shape (layout.size,). Raises `ModelError` for another."""
        write_flat(self._shared, flat)

    def save(self, folder: Path, base: str | None = None) -> None:
        """Write a plain peft folder; the same adapter gives the same bytes.

        Args:
            folder: created if it does not exist.
            base: the base model's name in a configuration; adapter_config.json gets its public name, so
                that `peft.AutoPeftModelForCausalLM.from_pretrained(folder)` finds it.
        """
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        factors = {name: factor.detach().to("cpu").contiguous() for name, factor in self._factors.items()}
        save_file(factors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        peft_config: dict[str, Any] = self.model.peft_config["default"].to_dict()
        public, revision = public_name(base) if base else (None, None)
        peft_config |= {"base_model_name_or_path": public, "revision": revision, "inference_mode": True}
        # peft holds the targets as a set, whose order differs between processes.
        text = json.dumps(peft_config, indent=1, sort_keys=True, default=sorted)
        (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")

    def detach(self) -> CausalModel:
        """Remove the adapter and return the base; do not use this object afterwards."""
        return self.model.unload()


def attach(model: CausalModel, config: AdapterConfig, seed: int) -> AdaptedModel:
    """Attach a LoRA adapter to a base model at its initial values: A expanded from the seed, B zero.

    Args:
        model: from `load_base`; changed in place.
        config: rank, alpha, targets, layers; `ffa-lora` shares B, `lora` both A and B.
        seed: of the federation.

    Raises:
        ModelError: no module in these layers has a target's name.
    """
    from peft import LoraConfig, get_peft_model

    if config.method == "lora":
        log.warning("adapter.method lora averages A and B separately, which is not the average of the models")
    _check_targets(model, config)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=int(config.alpha) if float(config.alpha).is_integer() else config.alpha,
        target_modules=list(config.targets),
        layers_to_transform=None if config.layers == "all" else list(config.layers),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, lora)
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
    """Return every A and B by the name under which peft saves it, in order of names."""
    factors = {
        name.replace(".default.weight", ".weight"): parameter
        for name, parameter in model.named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    }
    return dict(sorted(factors.items()))

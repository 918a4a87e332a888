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
        self.layout = SharedLayout(tuple(shared), tuple(tuple(factor.shape) for factor in self._shared))

    @property
    def trainable(self) -> list[torch.nn.Parameter]:
        """The shared tensors, in the layout's order."""
        return self._shared

    def read(self) -> torch.Tensor:
        """The shared tensors as one fp32 vector on the CPU, a copy; shape (layout.size,)."""
        return read_flat(self._shared)

    def write(self, flat: torch.Tensor) -> None:
        """Set the shared tensors from a vector of shape (layout.size,). Raises `ModelError` for another."""
        write_flat(self._shared, flat)

    def save(self, folder: Path, base: str | None = None) -> None:
        """Write a plain peft folder, the same bytes for the same adapter.

        Args:
            folder: made if it is not there.
            base: the base model as a configuration names it; adapter_config.json names it as other tools
                know it, so that `peft.AutoPeftModelForCausalLM.from_pretrained(folder)` finds it.
        """
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        factors = {name: factor.detach().to("cpu").contiguous() for name, factor in self._factors.items()}
        save_file(factors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        described: dict[str, Any] = self.model.peft_config["default"].to_dict()
        known_as, revision = public_name(base) if base else (None, None)
        described |= {"base_model_name_or_path": known_as, "revision": revision, "inference_mode": True}
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

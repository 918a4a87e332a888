"""Small image models with all weights shared: the FedAvg paper's CNN, and a linear model on scattering."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from fedllm.errors import ModelError
from fedllm.models.folder import IMAGES
from fedllm.models.scattering import DEFINITION, FEATURES
from fedllm.models.shared import SharedLayout, read_flat, write_flat

CONFIG, WEIGHTS = "config.json", "model.safetensors"
CLASSES = 10

_SEED = 7
_FIXED = {"mnist-cnn": "pixels in [0, 1]", "mnist-scattering": DEFINITION}


def _cnn() -> nn.Module:
    """McMahan et al. 2017 (arXiv 1602.05629), section 3: 1,663,370 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2),  # (batch, 32, 28, 28)
        nn.ReLU(),
        nn.MaxPool2d(2),  # (batch, 32, 14, 14)
        nn.Conv2d(32, 64, 5, padding=2),  # (batch, 64, 14, 14)
        nn.ReLU(),
        nn.MaxPool2d(2),  # (batch, 64, 7, 7)
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 512),
        nn.ReLU(),
        nn.Linear(512, CLASSES),
    )


def _linear() -> nn.Module:
    """Tramèr and Boneh 2021 (arXiv 2011.11660): a linear model on fixed features; starts at zero."""
    linear = nn.Linear(FEATURES, CLASSES)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear)


ARCHITECTURES: Mapping[str, Callable[[], nn.Module]] = {"mnist-cnn": _cnn, "mnist-scattering": _linear}


class VisionModel:
    """An image model whose weights are all shared.

    Attributes:
        model: of pixels (batch, 1, 28, 28) in [0, 1], or of features (batch, 3969) where `scatters`.
        architecture: its name.
        layout: of the shared tensors.
        frozen_sha256: over the description of its fixed part.
    """

    def __init__(self, model: nn.Module, architecture: str) -> None:
        self.model = model.eval()
        self.architecture = architecture
        named = dict(model.named_parameters())
        self.layout = SharedLayout(tuple(named), tuple(tuple(part.shape) for part in named.values()))
        self.frozen_sha256 = hashlib.sha256(f"{architecture}: {_FIXED[architecture]}".encode()).hexdigest()

    @property
    def scatters(self) -> bool:
        """Whether the model reads scattering features instead of pixels."""
        return self.architecture == "mnist-scattering"

    @property
    def trainable(self) -> list[nn.Parameter]:
        """Every weight, in the layout's order."""
        return list(self.model.parameters())

    def read(self) -> torch.Tensor:
        """Return a copy of all weights as one fp32 vector on the CPU; shape (layout.size,)."""
        return read_flat(self.trainable)

    def write(self, flat: torch.Tensor) -> None:
        """Set all weights from a vector of shape (layout.size,). Raises `ModelError` for another."""
        write_flat(self.trainable, flat)

    def save(self, folder: Path, base: str | None = None) -> None:
        """Write a folder for `load_vision`; the same model gives the same bytes.

        Args:
            folder: created if it does not exist.
            base: name of the model that this one started from, for config.json.
        """
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: part.detach().cpu().contiguous() for name, part in self.model.state_dict().items()}
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        config = {"model_type": IMAGES, "architecture": self.architecture} | ({"base": base} if base else {})
        (folder / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def make_vision(folder: Path, architecture: str) -> Path:
    """Write a fresh model of that name, with weights from a fixed seed: the same bytes everywhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = ARCHITECTURES[architecture]()
    VisionModel(model, architecture).save(folder)
    return folder


def load_vision(folder: Path) -> VisionModel:
    """Load a folder that `save` wrote, in fp32.

    Raises:
        ModelError: the folder is not such a model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        model = ARCHITECTURES[config["architecture"]]()
        model.load_state_dict(load_file(folder / WEIGHTS))
        return VisionModel(model, config["architecture"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: not an image model of fedllm: {' '.join(str(error).split())[:200]}"
        ) from None

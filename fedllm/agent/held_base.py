"""The base model that a site holds: its fingerprint, and what an adapter on it would weigh."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fedllm.config import AdapterConfig
from fedllm.errors import ModelError
from fedllm.models.base import resolve_base
from fedllm.models.folder import fingerprint, is_vision

_LAYER = re.compile(r".*\.[^.]*\.(\d+)\.")  # as peft reads a layer's number out of a module's name
# Weights that a file holds under another name than the model's module: their sizes cannot be told from it.
_ELSEWHERE = ("lm_head", "experts")


@dataclass(frozen=True)
class HeldBase:
    """A base model in its folder. The shapes come from the files' headers: no weight is loaded."""

    folder: Path
    sha256: str
    shapes: Mapping[str, tuple[int, int]]  # of each matrix, by its module's name: (out, in)
    numbers: int  # of all tensors together

    def adapter_size(self, adapter: AdapterConfig) -> int | None:
        """How many numbers an adapter shares here; None when the files do not tell.

        Raises:
            ModelError: no module has a target's name, a layer is not there, or `full` is not for this base.
        """
        if adapter.method == "full":
            if not is_vision(self.folder):
                raise ModelError("the adapter method full is for image models, and this base is none")
            return self.numbers
        size = 0
        layers = None if adapter.layers == "all" else set(adapter.layers)
        seen: set[int] = set()
        for target in dict.fromkeys(adapter.targets):
            matched = [name for name in self.shapes if name.rpartition(".")[2] == target]
            if target in _ELSEWHERE or any(f".{part}." in name for name in matched for part in _ELSEWHERE):
                return None
            if not matched:
                raise ModelError(f"no module of the base model is named {target!r}")
            for name in matched:
                number = _LAYER.match(f"{name}.")
                if layers is not None and (number is None or int(number[1]) not in layers):
                    continue
                seen |= {int(number[1])} if number else set()
                rows, columns = self.shapes[name]
                size += adapter.rank * (rows + (columns if adapter.method == "lora" else 0))
        if layers is not None and (absent := sorted(layers - seen)):
            raise ModelError(f"the base model has no layer {absent[0]} with these targets")
        return size


def held_base(name: str) -> HeldBase:
    """Find the base model that a site file names.

    Raises:
        ModelError: it is not there, or cannot be read.
    """
    folder = resolve_base(name)
    sha256 = fingerprint(folder)
    return HeldBase(folder, sha256, *_shapes(folder, sha256))


@lru_cache(maxsize=4)
def _shapes(folder: Path, _sha256: str) -> tuple[Mapping[str, tuple[int, int]], int]:
    found: dict[str, tuple[int, int]] = {}
    numbers = 0
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with file.open("rb") as opened:
                length = int.from_bytes(opened.read(8), "little")
                header = json.loads(opened.read(min(length, file.stat().st_size)))
            for name, tensor in header.items():
                if name == "__metadata__":
                    continue
                numbers += math.prod(tensor["shape"])
                if name.endswith(".weight") and len(tensor["shape"]) == 2:  # noqa: PLR2004 - a matrix
                    found[name.removesuffix(".weight")] = (tensor["shape"][0], tensor["shape"][1])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{file}: its header cannot be read: {error}") from None
    return found, numbers

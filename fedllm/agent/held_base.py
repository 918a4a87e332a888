"""The base model that a site holds: its fingerprint, and the size of an adapter on it."""

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
# Weights whose name in the file differs from the model's module: the file does not show their sizes.
_ELSEWHERE = ("lm_head", "experts")


@dataclass(frozen=True)
class HeldBase:
    """A base model in its folder. The shapes come from the files' headers, without loading weights."""

    folder: Path
    sha256: str
    shapes: Mapping[str, tuple[int, int]]  # of each matrix, by its module's name: (out, in)
    numbers: int  # of all tensors together

    def adapter_size(self, adapter: AdapterConfig) -> int | None:
        """Return how many numbers an adapter shares; None if the files do not show it.

        Raises:
            ModelError: a target or layer is not in the base, or the base does not support `full`.
        """
        if adapter.method == "full":
            if not is_vision(self.folder):
                raise ModelError("the adapter method full is for image models, and this base is not one")
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
        ModelError: the base is missing or cannot be read.
    """
    folder = resolve_base(name)
    sha256 = fingerprint(folder)
    return HeldBase(folder, sha256, *_shapes(folder, sha256))


@lru_cache(maxsize=4)
def _shapes(folder: Path, _sha256: str) -> tuple[Mapping[str, tuple[int, int]], int]:
    shapes: dict[str, tuple[int, int]] = {}
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
                    shapes[name.removesuffix(".weight")] = (tensor["shape"][0], tensor["shape"][1])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{file}: its header cannot be read: {error}") from None
    return shapes, numbers

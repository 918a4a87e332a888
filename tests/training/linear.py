"""A learner with one linear layer and squared loss, whose gradients can be written down."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from fedllm.data.records import Record
from fedllm.models.shared import SharedLayout, read_flat, write_flat
from fedllm.training.judged import Judged
from fedllm.training.learner import Shape


class LinearModel:
    """The shared part of a linear model; its own `model` is the layer."""

    frozen_sha256 = "0" * 64

    def __init__(self, width: int) -> None:
        self.model = torch.nn.Sequential(torch.nn.Linear(width, 1, bias=False))
        torch.nn.init.zeros_(self.trainable[0])
        self.layout = SharedLayout(("weight",), ((1, width),))

    @property
    def trainable(self) -> list[torch.nn.Parameter]:
        return list(self.model.parameters())

    def read(self) -> torch.Tensor:
        return read_flat(self.trainable)

    def write(self, flat: torch.Tensor) -> None:
        write_flat(self.trainable, flat)

    def save(self, folder: Path, base: str | None = None) -> None:
        del folder, base
        raise AssertionError("an audit saves nothing")


class LinearLearner:
    """Records `{"seed": …}`: a unit input and a target of 1 or -1, both drawn from the seed."""

    def __init__(self, width: int = 512) -> None:
        self.width = width
        self.shared = LinearModel(width)
        self.model = self.shared.model

    def encode(self, records: Iterable[Record]) -> list[tuple[torch.Tensor, float]]:
        found = []
        for record in records:
            chance = torch.Generator().manual_seed(int(record["seed"]))
            inputs = torch.randn(self.width, generator=chance)
            found.append((inputs / inputs.norm(), 1.0 if int(record["seed"]) % 2 else -1.0))
        return found

    def split(self, examples: Sequence[Any]) -> list[list[int]]:
        return [list(range(len(examples)))] if examples else []

    def shape(self, example: object) -> Shape:
        del example
        return Shape((), 1024)

    def trials(self, count: int) -> list[list[Any]]:
        return [self.encode({"seed": str(number)} for number in range(min(count, 1024)))]

    def losses(self, examples: Sequence[Any], size: tuple[int, ...] | None = None) -> torch.Tensor:
        del size
        inputs = torch.stack([inputs for inputs, _ in examples])  # (batch, width)
        targets = torch.tensor([target for _, target in examples])
        found: torch.Tensor = (self.model(inputs)[:, 0] - targets) ** 2
        return found

    def judge(self, examples: Sequence[Any]) -> list[Judged]:
        return [Judged(loss) for loss in self.losses(examples).tolist()]

    def predict(self, records: Sequence[Record | str]) -> list[str]:
        del records
        raise AssertionError("nobody asks")


RECORDS = [{"seed": str(number)} for number in range(20)]

"""What is trained: a shared model, and how records become examples, losses and judgements."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from fedllm.config import AdapterConfig, TaskConfig
from fedllm.data.records import Record
from fedllm.errors import ModelError
from fedllm.models.shared import SharedModel


class Shape(NamedTuple):
    """What a pass under privacy is like: told by each of its examples alone, and public."""

    size: tuple[int, ...]  # what each example is padded to, for `losses`
    most: int  # examples of a pass


class Learner(Protocol):
    """One kind of task on one model. Examples are opaque to everybody else."""

    model: Any  # a torch module

    @property
    def shared(self) -> SharedModel:
        """The part that travels."""

    def encode(self, records: Iterable[Record]) -> list[Any]:
        """Turn records into examples. Raises `DataError` for one that the task cannot read."""

    def split(self, examples: Sequence[Any]) -> list[list[int]]:
        """Split examples into parts for `losses` or `judge`, as is cheapest here: lists of their indices."""

    def shape(self, example: Any) -> Shape:  # noqa: ANN401 - opaque
        """The shape of the passes that an example may be in, whoever else is in them."""

    def trials(self, count: int) -> list[list[Any]]:
        """Made-up examples, the same ones whenever asked, and as if seen for the first time.

        Returns:
            For each of some shapes `count` examples, or the most of a pass if that is less.
        """

    def losses(self, examples: Sequence[Any], size: tuple[int, ...] | None = None) -> torch.Tensor:
        """One loss an example, whatever the others are; fp32, (batch,).

        Args:
            examples: of one part.
            size: of a `Shape` to pad each of them to; without it they share a pass as is cheapest.
        """

    def judge(self, examples: Sequence[Any]) -> tuple[list[float], list[bool] | None]:
        """Each example's loss, and whether the answer is right; None where no answer is the right one."""

    def predict(self, records: Sequence[Record | str]) -> list[str]:
        """Answer records, or texts where the task needs one field alone."""


def load_learner(folder: Path, adapter: AdapterConfig, seed: int, task: TaskConfig) -> Learner:
    """Load a base model with a fresh adapter and what its task needs.

    Args:
        folder: of the base model, from `resolve_base`.
        adapter: what is trained.
        seed: of the federation; it fixes the adapter's start.
        task: how records become examples.

    Raises:
        ModelError: the base is not of the task's kind, or the adapter does not fit it.
    """
    from fedllm.models.base import load_base
    from fedllm.models.kind import is_vision

    if is_vision(folder) != (task.kind == "image"):
        raise ModelError(f"{folder.name} and task.kind {task.kind} do not go together")
    if task.kind == "image":
        from fedllm.models.vision import load_vision
        from fedllm.training.images import ImageLearner

        return ImageLearner(load_vision(folder), task)
    from fedllm.models.adapter import attach
    from fedllm.training.text import TextLearner

    model, tokenizer = load_base(folder)
    return TextLearner(attach(model, adapter, seed), tokenizer, task)

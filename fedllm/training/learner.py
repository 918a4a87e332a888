"""The interface of a model in training: from records to examples, losses and judgements."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from fedllm.data.records import Record
from fedllm.models.shared import SharedModel
from fedllm.training.judged import Judged


class Shape(NamedTuple):
    """The public shape of a pass in private training; each of its examples determines it alone."""

    size: tuple[int, ...]  # to which `losses` pads each example
    most: int  # examples per pass, at most


class Learner(Protocol):
    """One kind of task on one model. Only the learner reads its examples."""

    model: Any  # a torch module

    @property
    def shared(self) -> SharedModel:
        """The part that sites and coordinator exchange."""

    def encode(self, records: Iterable[Record]) -> list[Any]:
        """Turn records into examples. Raises `DataError` for one that the task cannot read."""

    def split(self, examples: Sequence[Any]) -> list[list[int]]:
        """Split examples into parts that are cheap for `losses` or `judge`; returns lists of indices."""

    def shape(self, example: Any) -> Shape:  # noqa: ANN401 - opaque
        """Return the shape of an example's passes, which does not depend on the other examples."""

    def trials(self, count: int) -> list[list[Any]]:
        """Make synthetic examples: the same ones on every call, with nothing about them cached.

        Returns:
            For each of some shapes `count` examples, or a full pass if that is less.
        """

    def losses(self, examples: Sequence[Any], size: tuple[int, ...] | None = None) -> torch.Tensor:
        """Return one loss per example, independent of the other examples; fp32, (batch,).

        Args:
            examples: of one part.
            size: of a `Shape`, to which each example is padded; default: the cheapest form of a pass.
        """

    def judge(self, examples: Sequence[Any]) -> list[Judged]:
        """Return each example's loss, with its expected and given label where the task has labels."""

    def predict(self, records: Sequence[Record | str]) -> list[str]:
        """Answer records, or texts where the task needs a single field."""

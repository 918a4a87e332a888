"""What is trained: a shared model, and how records become examples, losses and judgements."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from fedllm.data.records import Record
from fedllm.models.shared import SharedModel
from fedllm.training.judged import Judged


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

    def judge(self, examples: Sequence[Any]) -> list[Judged]:
        """Each example's loss, with labels where the task has some."""

    def predict(self, records: Sequence[Record | str]) -> list[str]:
        """Answer records, or texts where the task needs one field alone."""

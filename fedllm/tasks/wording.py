"""The interface of a wording: a kind's prompt, answer and labels for a causal language model."""

from collections.abc import Mapping
from typing import Protocol

from fedllm.config import TaskConfig
from fedllm.data.records import Record
from fedllm.models.base import Tokenizer
from fedllm.tasks.examples import Example


class Wording(Protocol):
    """A kind of task in one tokenizer's tokens. It holds no model and no data of a record.

    An implementation guarantees:

    - A record's tokens depend on that record alone: record-level privacy relies on it.
    - No text of a record is read as a template, and only what may fit is tokenised.
    - `example` of a record starts with its `prompt`, unless that had to be cut.

    This defines the loss: the mean cross-entropy of an example's answer tokens. It also defines judgement and
    prediction: with `labels` the likeliest first token among them, else the generated text.
    """

    def __init__(self, tokenizer: Tokenizer, task: TaskConfig) -> None: ...

    @property
    def labels(self) -> Mapping[str, tuple[int, ...]] | None:
        """Each label's answer tokens, which differ in the first; None where answers are free text.

        Raises:
            ModelError: the task's labels do not fit the tokenizer.
        """

    def prompt(self, record: Record) -> list[int]:
        """Return the tokens of the prompt. Raises `DataError` if the record lacks a field."""

    def example(self, record: Record) -> Example:
        """Return prompt and answer, cut to `task.max_length`.

        Raises:
            DataError: the record lacks a field, or its answer is not in the task.
            ModelError: as `labels`.
        """

    def is_cut(self, record: Record) -> bool:
        """Return whether `example` leaves out some of the record's words. Raises as `example`."""

"""What a kind of task says to a causal language model: prompt, answer, and how the answer is judged."""

from collections.abc import Mapping
from typing import Protocol

from fedllm.config import TaskConfig
from fedllm.data.records import Record
from fedllm.models.base import Tokenizer
from fedllm.tasks.examples import Example


class Wording(Protocol):
    """A kind of task in one tokenizer's tokens. It holds no model, and nothing of a record.

    Whoever implements it keeps to this:

    - A record's tokens depend on that record alone: privacy by record counts on it.
    - No text of a record is read as a template, and no more of it is tokenised than can count.
    - `prompt` is what `example` of the same record begins with, unless that had to be cut.

    The loss follows: it is the mean cross-entropy of an example's answer tokens. So do judgement and
    prediction: with `labels` the likeliest first token among them, else the words that the model writes.
    """

    def __init__(self, tokenizer: Tokenizer, task: TaskConfig) -> None: ...

    @property
    def labels(self) -> Mapping[str, tuple[int, ...]] | None:
        """Each label's answer tokens, which differ in the first; None where answers are free text.

        Raises:
            ModelError: the task's labels do not fit the tokenizer.
        """

    def prompt(self, record: Record) -> list[int]:
        """The tokens that the model answers. Raises `DataError` for a record that lacks a field."""

    def example(self, record: Record) -> Example:
        """Prompt and answer, cut to `task.max_length`.

        Raises:
            DataError: a record without a field, or with an answer that the task does not know.
            ModelError: as `labels`.
        """

    def is_cut(self, record: Record) -> bool:
        """Whether `example` leaves some of the record's words out. Raises as `example`."""

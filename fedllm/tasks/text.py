"""Text: the filled template itself is what the model learns to continue; there is no answer beside it."""

from fedllm.config import TaskConfig
from fedllm.data.records import Record
from fedllm.errors import DataError
from fedllm.models.base import Tokenizer
from fedllm.tasks.causal import CausalTask
from fedllm.tasks.examples import Example, fill, is_beyond, plain, prompt_of


class Text:
    """A `Wording`: one token that begins a text, then all of the filled template."""

    labels = None

    def __init__(self, tokenizer: Tokenizer, task: TaskConfig) -> None:
        self._tokenizer = tokenizer
        self._task = task

    def prompt(self, record: Record) -> list[int]:
        """The filled template, which the model goes on with."""
        return prompt_of(self._tokenizer, record, self._task)

    def example(self, record: Record) -> Example:
        """A beginning and the text, cut to `max_length`. Raises `DataError` where there is no text."""
        tokenizer = self._tokenizer
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        words = plain(tokenizer, fill(record, self._task))
        if not words:
            raise DataError(f"record {record.get('id', '?')}: its text is empty")
        return Example((start,), tuple(words[: self._task.max_length - 1]))

    def is_cut(self, record: Record) -> bool:
        """Whether the text has more tokens than fit beside its beginning."""
        if is_beyond(record, self._task):
            return True
        return len(plain(self._tokenizer, fill(record, self._task))) > self._task.max_length - 1


TASK = CausalTask(Text)

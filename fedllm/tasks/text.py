"""Text: the model learns to continue the filled template; there is no separate answer."""

from fedllm.config import TaskConfig
from fedllm.data.records import Record
from fedllm.errors import DataError
from fedllm.models.base import Tokenizer
from fedllm.tasks.causal import CausalTask
from fedllm.tasks.examples import Example, fill, is_beyond, plain, prompt_of


class Text:
    """A `Wording`: one start token, then the filled template."""

    labels = None

    def __init__(self, tokenizer: Tokenizer, task: TaskConfig) -> None:
        self._tokenizer = tokenizer
        self._task = task

    def prompt(self, record: Record) -> list[int]:
        """Return the filled template, which the model continues."""
        return prompt_of(self._tokenizer, record, self._task)

    def example(self, record: Record) -> Example:
        """Return a start token and the text, cut to `max_length`. Raises `DataError` if the text is empty."""
        tokenizer = self._tokenizer
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        words = plain(tokenizer, fill(record, self._task))
        if not words:
            raise DataError(f"record {record.get('id', '?')}: its text is empty")
        return Example((start,), tuple(words[: self._task.max_length - 1]))

    def is_cut(self, record: Record) -> bool:
        """Return whether the text has more tokens than fit beside the start token."""
        if is_beyond(record, self._task):
            return True
        return len(plain(self._tokenizer, fill(record, self._task))) > self._task.max_length - 1


TASK = CausalTask(Text)

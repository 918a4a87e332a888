"""Chat: the filled template is a user's turn in the model's chat format, the record's answer is the reply."""

from fedllm.config import TaskConfig
from fedllm.data.records import Record
from fedllm.models.base import Tokenizer
from fedllm.tasks.causal import CausalTask
from fedllm.tasks.examples import (
    Example,
    example_of,
    fill,
    is_beyond,
    is_written_cut,
    plain,
    prompt_of,
    written_answer,
)


class Chat:
    """A `Wording`: a user's turn, then the record's answer and an end token."""

    labels = None

    def __init__(self, tokenizer: Tokenizer, task: TaskConfig) -> None:
        self._tokenizer = tokenizer
        self._task = task

    def prompt(self, record: Record) -> list[int]:
        """Return the turn in the tokenizer's chat template, or the filled template if there is none."""
        if not self._tokenizer.chat_template:
            return prompt_of(self._tokenizer, record, self._task)
        turns = [{"role": "user", "content": fill(record, self._task)}]
        text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return plain(self._tokenizer, text)

    def example(self, record: Record) -> Example:
        """Return the turn and the reply, which is cut to half of `max_length`."""
        answer = written_answer(self._tokenizer, record, self._task)
        return example_of(self._tokenizer, self._task, self.prompt(record), answer)

    def is_cut(self, record: Record) -> bool:
        """Return whether turn or reply is too long."""
        if is_beyond(record, self._task):
            return True
        return is_written_cut(self._tokenizer, record, self._task, self.prompt(record))


TASK = CausalTask(Chat)

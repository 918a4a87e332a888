"""Summarization: the filled template is the prompt, the record's answer field is the answer."""

from fedllm.config import TaskConfig
from fedllm.data.records import Record
from fedllm.models.base import Tokenizer
from fedllm.tasks.causal import CausalTask
from fedllm.tasks.examples import Example, example_of, is_beyond, is_written_cut, prompt_of, written_answer


class Summarization:
    """A `Wording`: the filled template, then the record's answer and an end token."""

    labels = None

    def __init__(self, tokenizer: Tokenizer, task: TaskConfig) -> None:
        self._tokenizer = tokenizer
        self._task = task

    def prompt(self, record: Record) -> list[int]:
        """Return the filled template."""
        return prompt_of(self._tokenizer, record, self._task)

    def example(self, record: Record) -> Example:
        """Return the filled template and the answer, which is cut to half of `max_length`."""
        answer = written_answer(self._tokenizer, record, self._task)
        return example_of(self._tokenizer, self._task, self.prompt(record), answer)

    def is_cut(self, record: Record) -> bool:
        """Return whether prompt or answer is too long."""
        if is_beyond(record, self._task):
            return True
        return is_written_cut(self._tokenizer, record, self._task, self.prompt(record))


TASK = CausalTask(Summarization)

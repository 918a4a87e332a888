"""Classification: the answer is a text's label; the likeliest first token of the labels decides."""

from functools import cached_property

from fedllm.config import TaskConfig
from fedllm.data.records import Record
from fedllm.errors import DataError, ModelError
from fedllm.models.base import Tokenizer
from fedllm.tasks.causal import CausalTask
from fedllm.tasks.examples import Example, example_of, field, is_beyond, plain, prompt_of


class Classification:
    """A `Wording`: the filled template, then the words for the record's label."""

    def __init__(self, tokenizer: Tokenizer, task: TaskConfig) -> None:
        self._tokenizer = tokenizer
        self._task = task

    @cached_property
    def labels(self) -> dict[str, tuple[int, ...]]:
        """Each label's answer tokens.

        Raises:
            ModelError: a label has no words or no room for a prompt in `max_length`, or two labels start with
                the same token.
        """
        task = self._task
        words = {label: tuple(plain(self._tokenizer, word)) for label, word in task.labels.items()}
        if empty := [label for label, word in words.items() if not word]:
            raise ModelError(f"task.labels: {', '.join(empty)} have no words")
        if long := [label for label, word in words.items() if len(word) >= task.max_length]:
            raise ModelError(f"task.labels: {', '.join(long)} leave no room for a prompt in task.max_length")
        firsts = [word[0] for word in words.values()]
        if len(set(firsts)) < len(firsts):
            raise ModelError(
                f"task.labels: {sorted(task.labels.values())} do not all start with different tokens in this "
                "model's vocabulary: choose words that do"
            )
        return words

    def prompt(self, record: Record) -> list[int]:
        """Return the filled template."""
        return prompt_of(self._tokenizer, record, self._task)

    def example(self, record: Record) -> Example:
        """Return filled template and label's words; cuts a long prompt before the template's last words.

        Raises:
            DataError: the record lacks a field, or its label is not in the task.
        """
        label = field(record, self._task, "label")
        if label not in self.labels:
            raise DataError(f"record {record.get('id', '?')}: label {label!r} is not in task.labels")
        return example_of(self._tokenizer, self._task, self.prompt(record), self.labels[label])

    def is_cut(self, record: Record) -> bool:
        """Return whether the prompt does not fit beside the label's words."""
        if is_beyond(record, self._task):
            return True
        answer = self.labels[field(record, self._task, "label")]
        return len(self.prompt(record)) > self._task.max_length - len(answer)


TASK = CausalTask(Classification)

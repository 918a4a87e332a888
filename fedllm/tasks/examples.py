"""Turn texts into tokens: fill a template, cut prompt and answer to size, pad a batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from fedllm.config import TaskConfig
from fedllm.data.records import Record
from fedllm.data.site_records import CHARACTERS
from fedllm.errors import DataError
from fedllm.models.base import Tokenizer

IGNORED = -100  # a label that the loss ignores


@dataclass(frozen=True)
class Example:
    """One record's tokens: a prompt and its answer, together at most `max_length`."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def length(self) -> int:
        """The number of tokens fed to the model: the answer's last token is only predicted."""
        return len(self.prompt) + len(self.answer) - 1


@dataclass(frozen=True)
class Padded:
    """Examples padded at the left, so that all answers end in the last column.

    Shapes: `tokens`, `mask`, `positions` (batch, seq); `labels` (batch, keep), IGNORED before an answer.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor

    @property
    def keep(self) -> int:
        """The number of last positions whose logits are computed."""
        return self.labels.shape[1]


def collate(examples: Sequence[Example], pad: int, size: tuple[int, int] | None = None) -> Padded:
    """Pad examples at the left: to (tokens fed, answer tokens) if given, else to the longest example."""
    width = max(example.length for example in examples)
    keep = max(len(example.answer) for example in examples)
    if size is not None:
        width, keep = size
    tokens = torch.full((len(examples), width), pad)
    mask = torch.zeros((len(examples), width), dtype=torch.long)
    labels = torch.full((len(examples), keep), IGNORED)
    for row, example in enumerate(examples):
        fed = (*example.prompt, *example.answer)[:-1]
        tokens[row, width - len(fed) :] = torch.tensor(fed)
        mask[row, width - len(fed) :] = 1
        labels[row, keep - len(example.answer) :] = torch.tensor(example.answer)
    return Padded(tokens, mask, (mask.cumsum(1) - 1).clamp_(min=0), labels)


def example_of(
    tokenizer: Tokenizer, task: TaskConfig, prompt: Sequence[int], answer: tuple[int, ...]
) -> Example:
    """Join a prompt and its answer; cuts a prompt that is too long before the template's last words."""
    room = task.max_length - len(answer)
    if len(prompt) > room:
        # The words after the text instruct the model, so the text is cut.
        last = len(plain(tokenizer, task.template.rpartition("}")[2]))
        tail = min(last, room - 1)
        prompt = [*prompt[: room - tail], *(prompt[-tail:] if tail else ())]
    return Example(tuple(prompt), answer)


def prompt_of(tokenizer: Tokenizer, record: Record, task: TaskConfig) -> list[int]:
    """Tokenise the filled template, with the tokenizer's start tokens; never empty."""
    prompt = list(tokenizer(fill(record, task)).input_ids)
    return prompt or [tokenizer.eos_token_id]


def written_answer(tokenizer: Tokenizer, record: Record, task: TaskConfig) -> tuple[int, ...]:
    """Tokenise the record's answer and an end token, cut to half of `max_length`."""
    words = plain(tokenizer, field(record, task, "answer")[: most_characters(task)])
    return (*words, tokenizer.eos_token_id)[: max(1, task.max_length // 2)]


def is_written_cut(tokenizer: Tokenizer, record: Record, task: TaskConfig, prompt: Sequence[int]) -> bool:
    """Return whether a prompt and the record's answer are too long, alone or together."""
    answer = len(plain(tokenizer, field(record, task, "answer"))) + 1
    return answer > max(1, task.max_length // 2) or len(prompt) > task.max_length - answer


def plain(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokenise a text without start or end tokens."""
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def fill(record: Record, task: TaskConfig) -> str:
    """Fill the template with the record's fields, cut before the template's last words.

    The result is at most `most_characters` plus the last words, however often the template names a field.
    """
    head, brace, last = task.template.rpartition("}")
    room = most_characters(task)
    parts = []
    for piece in _pieces(record, task, head + brace):  # all of them: each field must exist
        parts.append(piece[:room])
        room -= len(parts[-1])
    return "".join(parts) + last


def is_beyond(record: Record, task: TaskConfig) -> bool:
    """Return whether the filled template is longer than `most_characters`."""
    return sum(map(len, _pieces(record, task, task.template))) > most_characters(task)


def most_characters(task: TaskConfig) -> int:
    """Return the most characters of a text that are tokenised; the rest is cut before.

    Words of any language have fewer characters per token than that, so no token within `max_length` is lost.
    """
    return CHARACTERS * task.max_length


def field(record: Record, task: TaskConfig, name: str) -> str:
    """Return a record's field by the task's name for it. Raises `DataError` if the record lacks it."""
    key = task.fields.get(name, name)
    if key not in record:
        raise DataError(
            f"record {record.get('id', '?')}: no field {key!r}; it has {', '.join(sorted(record))}"
        )
    return record[key]


def _pieces(record: Record, task: TaskConfig, template: str) -> Iterator[str]:
    # Plain replacement: a text with braces must not be read as a template.
    done = 0
    while (opened := template.find("{", done)) >= 0 and (closed := template.find("}", opened)) >= 0:
        yield template[done:opened]
        name = template[opened + 1 : closed]
        yield field(record, task, name) if name in task.fields else template[opened : closed + 1]
        done = closed + 1
    yield template[done:]

"""Texts as tokens: a template filled with a record's words, a prompt and an answer cut to size, a batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from fedllm.config import TaskConfig
from fedllm.data.records import Record
from fedllm.data.site_records import CHARACTERS
from fedllm.errors import DataError
from fedllm.models.base import Tokenizer

IGNORED = -100  # a label that counts for nothing


@dataclass(frozen=True)
class Example:
    """One record's tokens: a prompt and its answer, together at most `max_length`."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens that the model is fed: the last one of the answer is only ever predicted."""
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
        """For how many of the last positions logits are wanted."""
        return self.labels.shape[1]


def collate(examples: Sequence[Example], pad: int, size: tuple[int, int] | None = None) -> Padded:
    """Pad examples at the left: to (tokens fed, tokens answered) if given, else to the longest of them."""
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
    """A prompt and its answer; a prompt that is too long is cut before the template's last words."""
    room = task.max_length - len(answer)
    if len(prompt) > room:
        # What follows the text tells the model what to do: it is the text that is cut.
        last = len(plain(tokenizer, task.template.rpartition("}")[2]))
        tail = min(last, room - 1)
        prompt = [*prompt[: room - tail], *(prompt[-tail:] if tail else ())]
    return Example(tuple(prompt), answer)


def prompt_of(tokenizer: Tokenizer, record: Record, task: TaskConfig) -> list[int]:
    """The filled template as the tokenizer begins a text; never empty."""
    prompt = list(tokenizer(fill(record, task)).input_ids)
    return prompt or [tokenizer.eos_token_id]


def written_answer(tokenizer: Tokenizer, record: Record, task: TaskConfig) -> tuple[int, ...]:
    """The record's own words and an end, cut to half of `max_length`."""
    words = plain(tokenizer, field(record, task, "answer")[: most_characters(task)])
    return (*words, tokenizer.eos_token_id)[: max(1, task.max_length // 2)]


def is_written_cut(tokenizer: Tokenizer, record: Record, task: TaskConfig, prompt: Sequence[int]) -> bool:
    """Whether a prompt and the record's own words as its answer are too long, each by itself or together."""
    answer = len(plain(tokenizer, field(record, task, "answer"))) + 1
    return answer > max(1, task.max_length // 2) or len(prompt) > task.max_length - answer


def plain(tokenizer: Tokenizer, text: str) -> list[int]:
    """A text's own tokens, without any that begin or end one."""
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def fill(record: Record, task: TaskConfig) -> str:
    """The template with the record's fields in it, cut before the template's last words.

    However often the template names a field, no more is put together than the tokens that count can need.
    """
    head, brace, last = task.template.rpartition("}")
    room = most_characters(task)
    parts = []
    for piece in _pieces(record, task, head + brace):  # to its end: each field must be there
        parts.append(piece[:room])
        room -= len(parts[-1])
    return "".join(parts) + last


def is_beyond(record: Record, task: TaskConfig) -> bool:
    """Whether the filled template is longer than the characters that any tokenizer is shown."""
    return sum(map(len, _pieces(record, task, task.template))) > most_characters(task)


def most_characters(task: TaskConfig) -> int:
    """Characters of a text that the tokenizer sees, at most: what is beyond is cut before.

    Words of any language come to fewer characters a token, so that all tokens which count are there.
    """
    return CHARACTERS * task.max_length


def field(record: Record, task: TaskConfig, name: str) -> str:
    """A record's field, by the task's name for it. Raises `DataError` where the record lacks it."""
    key = task.fields.get(name, name)
    if key not in record:
        raise DataError(
            f"record {record.get('id', '?')}: no field {key!r}; it has {', '.join(sorted(record))}"
        )
    return record[key]


def _pieces(record: Record, task: TaskConfig, template: str) -> Iterator[str]:
    # Plain replacement: a text that holds braces must not be read as a template itself.
    done = 0
    while (opened := template.find("{", done)) >= 0 and (closed := template.find("}", opened)) >= 0:
        yield template[done:opened]
        name = template[opened + 1 : closed]
        yield field(record, task, name) if name in task.fields else template[opened : closed + 1]
        done = closed + 1
    yield template[done:]

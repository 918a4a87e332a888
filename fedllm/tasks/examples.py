"""From records to tokens: a prompt, and the answer that should follow it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from fedllm.config import TaskConfig
from fedllm.data.records import Record
from fedllm.data.site_records import CHARACTERS
from fedllm.errors import DataError, ModelError
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


def label_tokens(tokenizer: Tokenizer, task: TaskConfig) -> dict[str, tuple[int, ...]]:
    """Each label's answer tokens.

    Raises:
        ModelError: a label has no words or more than `max_length` leaves room for, or two labels start with
            the same token, so that the first would not tell them apart.
    """
    words = {label: tuple(_plain(tokenizer, word)) for label, word in task.labels.items()}
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


def encode(tokenizer: Tokenizer, records: Iterable[Record], task: TaskConfig) -> list[Example]:
    """Turn records into examples, long prompts cut before the template's last words.

    Raises:
        DataError: a record without a field, or with a label that the task does not know.
    """
    answers = label_tokens(tokenizer, task) if task.kind == "classification" else {}
    return [_example(tokenizer, record, task, answers) for record in records]


def encode_prompts(tokenizer: Tokenizer, records: Iterable[Record], task: TaskConfig) -> list[list[int]]:
    """The prompts alone, for records whose answers are not known."""
    return [_prompt(tokenizer, record, task)[: task.max_length] for record in records]


def cut_check(tokenizer: Tokenizer, task: TaskConfig) -> Callable[[Record], bool]:
    """A function that says of a record whether `encode` leaves some of its words out.

    Raises:
        ModelError: the task's labels do not fit this tokenizer.
    """
    labels = label_tokens(tokenizer, task) if task.kind == "classification" else {}

    def is_cut(record: Record) -> bool:
        if sum(map(len, _pieces(record, task, task.template))) > _most(task):
            return True
        if task.kind == "text":
            return len(_plain(tokenizer, _fill(record, task))) > task.max_length - 1
        if task.kind == "classification":
            answer = len(labels[_field(record, task, "label")])
        else:
            answer = len(_plain(tokenizer, _field(record, task, "answer"))) + 1
            if answer > max(1, task.max_length // 2):
                return True
        return len(_prompt(tokenizer, record, task)) > task.max_length - answer

    return is_cut


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


def _example(
    tokenizer: Tokenizer, record: Record, task: TaskConfig, answers: dict[str, tuple[int, ...]]
) -> Example:
    if task.kind == "text":
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        words = _plain(tokenizer, _fill(record, task))
        if not words:
            raise DataError(f"record {record.get('id', '?')}: its text is empty")
        return Example((start,), tuple(words[: task.max_length - 1]))
    if task.kind == "classification":
        label = _field(record, task, "label")
        if label not in answers:
            raise DataError(f"record {record.get('id', '?')}: label {label!r} is not in task.labels")
        answer = answers[label]
    else:
        told = _plain(tokenizer, _field(record, task, "answer")[: _most(task)])
        answer = (*told, tokenizer.eos_token_id)[: max(1, task.max_length // 2)]
    prompt = _prompt(tokenizer, record, task)
    room = task.max_length - len(answer)
    if len(prompt) > room:
        # What follows the text tells the model what to do: it is the text that is cut.
        last = len(_plain(tokenizer, task.template.rpartition("}")[2]))
        tail = min(last, room - 1)
        prompt = prompt[: room - tail] + (prompt[-tail:] if tail else [])
    return Example(tuple(prompt), answer)


def _prompt(tokenizer: Tokenizer, record: Record, task: TaskConfig) -> list[int]:
    text = _fill(record, task)
    if task.kind == "chat" and tokenizer.chat_template:
        said = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        return list(_plain(tokenizer, text))
    prompt = list(tokenizer(text).input_ids)
    return prompt or [tokenizer.eos_token_id]


def _plain(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def _fill(record: Record, task: TaskConfig) -> str:
    """The template with the record's fields in it, cut before the template's last words.

    However often the template names a field, no more is put together than the tokens that count can need.
    """
    head, brace, last = task.template.rpartition("}")
    room = _most(task)
    parts = []
    for piece in _pieces(record, task, head + brace):  # to its end: each field must be there
        parts.append(piece[:room])
        room -= len(parts[-1])
    return "".join(parts) + last


def _pieces(record: Record, task: TaskConfig, template: str) -> Iterator[str]:
    # Plain replacement: a text that holds braces must not be read as a template itself.
    done = 0
    while (opened := template.find("{", done)) >= 0 and (closed := template.find("}", opened)) >= 0:
        yield template[done:opened]
        name = template[opened + 1 : closed]
        yield _field(record, task, name) if name in task.fields else template[opened : closed + 1]
        done = closed + 1
    yield template[done:]


def _most(task: TaskConfig) -> int:
    """Characters of a text that the tokenizer sees, at most: what is beyond is cut before.

    Words of any language come to fewer characters a token, so that all tokens which count are there.
    """
    return CHARACTERS * task.max_length


def _field(record: Record, task: TaskConfig, name: str) -> str:
    key = task.fields.get(name, name)
    if key not in record:
        raise DataError(
            f"record {record.get('id', '?')}: no field {key!r}; it has {', '.join(sorted(record))}"
        )
    return record[key]

"""Texts on a causal language model: the loss of an answer's tokens, the label of the highest first token."""

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import numpy as np
import torch

from fedllm.config import TaskConfig
from fedllm.data.records import Record
from fedllm.models.adapter import AdaptedModel
from fedllm.models.base import CausalModel, Tokenizer
from fedllm.training.batches import split
from fedllm.training.examples import (
    IGNORED,
    Example,
    Padded,
    collate,
    encode,
    encode_prompts,
    label_tokens,
)
from fedllm.training.learner import Shape

_TOKENS = 1024  # a batch of `quizzes`, padding counted
_ANSWER = 64  # tokens, the longest answer that `predict` writes
_PASS = 1024  # tokens of a pass under privacy, padding counted
_GRAIN = 4  # tokens: an example is padded to a multiple of so many there
_TRIALS = ((8, 1), (36, 4))  # sizes of made-up examples


class TextLearner:
    """A causal language model, adapted or bare, with its tokenizer and a task."""

    def __init__(self, model: AdaptedModel | CausalModel, tokenizer: Tokenizer, task: TaskConfig) -> None:
        self._adapted = model if isinstance(model, AdaptedModel) else None
        self.model: CausalModel = model.model if isinstance(model, AdaptedModel) else model
        self.tokenizer = tokenizer
        self.task = task

    @property
    def shared(self) -> AdaptedModel:
        """The adapter. A bare model has none: it answers, and is not trained."""
        assert self._adapted is not None  # noqa: S101 - who trains has attached an adapter
        return self._adapted

    def encode(self, records: Iterable[Record]) -> list[Example]:
        """Records as tokens. Raises `DataError`."""
        return encode(self.tokenizer, records, self.task)

    def split(self, examples: Sequence[Example]) -> list[list[int]]:
        """Micro-batches of like lengths."""
        return split([example.length for example in examples])

    def shape(self, example: Example) -> Shape:
        """Its tokens and some padding to a multiple of four, those of its answer to a power of two.

        Some padding it is in any case: where nobody has any, transformers leaves the mask out, and attention
        comes to other bits.
        """
        length = (example.length // _GRAIN + 1) * _GRAIN
        keep = min(1 << (len(example.answer) - 1).bit_length(), length)
        return Shape((length, keep), max(1, _PASS // length))

    def trials(self, count: int) -> list[list[Example]]:
        """Tokens at random: of two shapes, and in each of all the lengths that it takes."""
        return [self._trials(size, min(count, _PASS // size[0])) for size in _TRIALS]

    def _trials(self, size: tuple[int, int], count: int) -> list[Example]:
        length, keep = size
        chance = np.random.default_rng(length)
        found = []
        for _ in range(count):
            answer = chance.integers(keep // 2 + 1, keep + 1)
            whole = length - chance.integers(_GRAIN)  # its last token is not fed, and one place is padding
            tokens = tuple(chance.integers(len(self.tokenizer), size=whole).tolist())
            found.append(Example(tokens[:-answer], tokens[-answer:]))
        return found

    def losses(self, examples: Sequence[Example], size: tuple[int, ...] | None = None) -> torch.Tensor:
        """Each example's mean loss over its answer tokens; logits are computed at these positions alone.

        Returns:
            fp32, (batch,).
        """
        padded = collate(examples, self.tokenizer.pad_token_id, cast("tuple[int, int] | None", size))
        return _answer_losses(self._logits(padded), padded)

    def quizzes(self, examples: Sequence[Example]) -> Iterator[list[int]]:
        """Batches of like lengths."""
        yield from _by_length([example.length for example in examples])

    def judge(self, examples: Sequence[Example]) -> tuple[list[float], list[bool] | None]:
        """Each example's loss, and for a classification whether its label's first token is the likeliest."""
        padded = collate(examples, self.tokenizer.pad_token_id)
        logits = self._logits(padded).float().cpu()  # (batch, keep, vocabulary)
        losses = _answer_losses(logits, padded).tolist()
        if self.task.kind != "classification":
            return losses, None
        firsts = self._first_tokens()
        right = []
        for row, example in enumerate(examples):
            at = logits[row, padded.keep - len(example.answer)]  # (vocabulary,)
            right.append(firsts[int(at[firsts].argmax())] == example.answer[0])
        return losses, right

    def predict(self, records: Sequence[Record | str]) -> list[str]:
        """Answer texts or records: the label for a classification, else the words that the model writes."""
        text = self.task.fields.get("text", "text")
        asked = [{text: one} if isinstance(one, str) else one for one in records]
        prompts = encode_prompts(self.tokenizer, asked, self.task)
        answers = [""] * len(prompts)
        for rows in _by_length([len(prompt) for prompt in prompts]):
            for i, told in zip(rows, self._answers([prompts[i] for i in rows]), strict=True):
                answers[i] = told
        return answers

    def _answers(self, prompts: list[list[int]]) -> list[str]:
        pad = self.tokenizer.pad_token_id
        padded = self.tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self.model.device)
        if self.task.kind == "classification":
            positions = (padded["attention_mask"].cumsum(1) - 1).clamp_(min=0)
            output = self.model(**padded, position_ids=positions, logits_to_keep=1, use_cache=False)
            chosen = output.logits[:, -1, self._first_tokens()].argmax(1).tolist()
            return [list(self.task.labels)[i] for i in chosen]
        written = self.model.generate(**padded, max_new_tokens=_ANSWER, do_sample=False, pad_token_id=pad)
        new = written[:, padded["input_ids"].shape[1] :]
        return [text.strip() for text in self.tokenizer.batch_decode(new, skip_special_tokens=True)]

    def _first_tokens(self) -> list[int]:
        return [word[0] for word in label_tokens(self.tokenizer, self.task).values()]

    def _logits(self, padded: Padded) -> torch.Tensor:
        """Logits that predict the answers' tokens; (batch, keep, vocabulary)."""
        device = next(self.model.parameters()).device
        output = self.model(
            input_ids=padded.tokens.to(device),
            attention_mask=padded.mask.to(device),
            position_ids=padded.positions.to(device),
            logits_to_keep=padded.keep,
            use_cache=False,
        )
        logits: torch.Tensor = output.logits
        return logits


def _answer_losses(logits: torch.Tensor, padded: Padded) -> torch.Tensor:
    """The mean over each answer's own tokens, so that no example weighs more for being long; (batch,)."""
    labels = padded.labels.to(logits.device)  # (batch, keep)
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="none"
    ).view_as(labels)
    return losses.sum(1) / (labels != IGNORED).sum(1)


def _by_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices in batches of like lengths and at most so many tokens."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * lengths[i] > _TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch

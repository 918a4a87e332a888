"""Texts on a causal language model: the loss of an answer's tokens, the label of the highest first token."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import cast

import numpy as np
import torch

from fedllm.config import TaskConfig
from fedllm.data.records import Record
from fedllm.models.adapter import AdaptedModel
from fedllm.models.base import CausalModel, Tokenizer
from fedllm.tasks.examples import (
    IGNORED,
    Example,
    Padded,
    collate,
    encode,
    encode_prompts,
    label_tokens,
)
from fedllm.tasks.packing import answer_logits, stay_apart
from fedllm.training.batches import by_length, filled
from fedllm.training.learner import Shape

_ROW = 448  # tokens of texts in a row on a processor: more of them, and attention costs more than a pass
_MOST = 2048  # tokens of any other batch, padding counted: memory goes with them
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
        """In the order given where texts can share a row, else of like lengths."""
        lengths = [example.length for example in examples]
        if not self._packs:
            return by_length(lengths, _MOST)
        return filled(lengths, _ROW if self.model.device.type == "cpu" else _MOST)

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
        if size is None:
            return torch.stack([_mean_loss(*one) for one in zip(self._each(examples), examples, strict=True)])
        padded = collate(examples, self.tokenizer.pad_token_id, cast("tuple[int, int]", size))
        return _answer_losses(self._logits(padded), padded)

    def judge(self, examples: Sequence[Example]) -> tuple[list[float], list[bool] | None]:
        """Each example's loss, and for a classification whether its label's first token is the likeliest."""
        answers = [logits.detach().float().cpu() for logits in self._each(examples)]
        losses = [_mean_loss(*one).item() for one in zip(answers, examples, strict=True)]
        if self.task.kind != "classification":
            return losses, None
        firsts = self._first_tokens()
        best = [firsts[int(logits[0, firsts].argmax())] for logits in answers]
        return losses, [token == example.answer[0] for token, example in zip(best, examples, strict=True)]

    def predict(self, records: Sequence[Record | str]) -> list[str]:
        """Answer texts or records: the label for a classification, else the words that the model writes."""
        text = self.task.fields.get("text", "text")
        asked = [{text: one} if isinstance(one, str) else one for one in records]
        prompts = encode_prompts(self.tokenizer, asked, self.task)
        answers = [""] * len(prompts)
        for rows in by_length([len(prompt) for prompt in prompts], _MOST):
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

    @cached_property
    def _packs(self) -> bool:
        return stay_apart(self.model)

    def _each(self, examples: Sequence[Example]) -> list[torch.Tensor]:
        """Logits that predict each example's answer; for each one (answer, vocabulary)."""
        if self._packs:
            return answer_logits(self.model, examples)
        logits = self._logits(collate(examples, self.tokenizer.pad_token_id))
        return [row[-len(example.answer) :] for row, example in zip(logits, examples, strict=True)]

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


def _mean_loss(logits: torch.Tensor, example: Example) -> torch.Tensor:
    """The mean over an answer's tokens, so that no example weighs more for being long; fp32, ()."""
    labels = torch.tensor(example.answer, device=logits.device)
    return torch.nn.functional.cross_entropy(logits.float(), labels)


def _answer_losses(logits: torch.Tensor, padded: Padded) -> torch.Tensor:
    """The same for examples padded alike; fp32, (batch,)."""
    labels = padded.labels.to(logits.device)  # (batch, keep)
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="none"
    ).view_as(labels)
    return losses.sum(1) / (labels != IGNORED).sum(1)

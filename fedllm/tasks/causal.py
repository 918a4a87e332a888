"""The learner of causal language models, which all kinds of task on texts share; their `Wording` differs."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch

from fedllm.config import AdapterConfig, TaskConfig
from fedllm.data.records import Record
from fedllm.errors import ModelError
from fedllm.models.adapter import AdaptedModel, attach
from fedllm.models.base import CausalModel, Tokenizer, load_base
from fedllm.tasks.examples import IGNORED, Example, Padded, collate
from fedllm.tasks.packing import answer_logits, stay_apart
from fedllm.tasks.wording import Wording
from fedllm.training.batches import by_length, filled
from fedllm.training.judged import Judged
from fedllm.training.learner import Shape

_ROW = 448  # tokens per packed row on a CPU: with more, attention costs more than a second pass
_MOST = 2048  # tokens of any other batch, with padding: memory grows with them
_ANSWER = 64  # tokens of the longest answer that `predict` generates
_PASS = 1024  # tokens of a pass in private training, with padding
_GRAIN = 4  # tokens: private training pads an example to a multiple of this
_TRIALS = ((8, 1), (36, 4))  # sizes of synthetic examples


class CausalLearner:
    """A causal language model, with or without adapter, its tokenizer, a task, and the task's wording."""

    def __init__(
        self, model: AdaptedModel | CausalModel, tokenizer: Tokenizer, task: TaskConfig, wording: Wording
    ) -> None:
        self._adapted = model if isinstance(model, AdaptedModel) else None
        self.model: CausalModel = model.model if isinstance(model, AdaptedModel) else model
        self.tokenizer = tokenizer
        self.task = task
        self._wording = wording

    @property
    def shared(self) -> AdaptedModel:
        """The adapter. Requires an adapted model: a bare one only answers."""
        assert self._adapted is not None  # noqa: S101 - training always attaches an adapter
        return self._adapted

    def encode(self, records: Iterable[Record]) -> list[Example]:
        """Encode records as tokens.

        Raises:
            DataError: the task cannot read a record.
            ModelError: the task does not fit the tokenizer; also raised without records.
        """
        _ = self._wording.labels  # raises first: this error is not the fault of a record
        return [self._wording.example(record) for record in records]

    def split(self, examples: Sequence[Example]) -> list[list[int]]:
        """Split in the given order where texts can share a row, else by similar length."""
        lengths = [example.length for example in examples]
        if not self._packs:
            return by_length(lengths, _MOST)
        return filled(lengths, _ROW if self.model.device.type == "cpu" else _MOST)

    def shape(self, example: Example) -> Shape:
        """Round the tokens up to the next multiple of four, and those of the answer to a power of two.

        There is always some padding: without any, transformers omits the mask, and attention computes other
        bits.
        """
        length = (example.length // _GRAIN + 1) * _GRAIN
        keep = min(1 << (len(example.answer) - 1).bit_length(), length)
        return Shape((length, keep), max(1, _PASS // length))

    def trials(self, count: int) -> list[list[Example]]:
        """Make examples of random tokens, in two shapes and in all lengths of each shape."""
        return [self._random(size, min(count, _PASS // size[0])) for size in _TRIALS]

    def _random(self, size: tuple[int, int], count: int) -> list[Example]:
        length, keep = size
        rng = np.random.default_rng(length)
        examples = []
        for _ in range(count):
            answer = rng.integers(keep // 2 + 1, keep + 1)
            whole = length - rng.integers(_GRAIN)  # the last token is not fed, and one place is padding
            tokens = tuple(rng.integers(len(self.tokenizer), size=whole).tolist())
            examples.append(Example(tokens[:-answer], tokens[-answer:]))
        return examples

    def losses(self, examples: Sequence[Example], size: tuple[int, ...] | None = None) -> torch.Tensor:
        """Return each example's mean loss over its answer tokens; only their logits are computed.

        Returns:
            fp32, (batch,).
        """
        if size is None:
            pairs = zip(self._answer_logits(examples), examples, strict=True)
            return torch.stack([_mean_loss(*pair) for pair in pairs])
        padded = collate(examples, self.tokenizer.pad_token_id, cast("tuple[int, int]", size))
        return _answer_losses(self._logits(padded), padded)

    def judge(self, examples: Sequence[Example]) -> list[Judged]:
        """Return each example's loss, and with labels the one whose first token is the likeliest."""
        answers = [logits.detach().float().cpu() for logits in self._answer_logits(examples)]
        losses = [_mean_loss(*one).item() for one in zip(answers, examples, strict=True)]
        firsts = self._first_tokens()
        if firsts is None:
            return [Judged(loss) for loss in losses]
        tokens, names = list(firsts.values()), list(firsts)
        by_token = {token: name for name, token in firsts.items()}
        return [
            Judged(loss, by_token[example.answer[0]], names[int(logits[0, tokens].argmax())])
            for loss, example, logits in zip(losses, examples, answers, strict=True)
        ]

    def predict(self, records: Sequence[Record | str]) -> list[str]:
        """Answer texts or records: with a label where the task has labels, else with generated text."""
        text = self.task.fields.get("text", "text")
        rows = [{text: one} if isinstance(one, str) else one for one in records]
        prompts = [self._prompt(record) for record in rows]
        answers = [""] * len(prompts)
        for part in by_length([len(prompt) for prompt in prompts], _MOST):
            for i, answer in zip(part, self._answers([prompts[i] for i in part]), strict=True):
                answers[i] = answer
        return answers

    def probabilities(self, record: Record) -> dict[str, float] | None:
        """Return the softmax over the labels' first tokens, which decide the label; None without labels."""
        firsts = self._first_tokens()
        if firsts is None:
            return None
        prompt = torch.tensor([self._prompt(record)], device=self.model.device)  # (1, seq)
        with torch.inference_mode():
            output = self.model(input_ids=prompt, logits_to_keep=1, use_cache=False)
        logits = output.logits[0, -1]  # (vocabulary,)
        shares = torch.softmax(logits[list(firsts.values())].float(), 0).tolist()  # (labels,)
        return dict(zip(firsts, shares, strict=True))

    def _prompt(self, record: Record) -> list[int]:
        """Return the prompt of a record without an answer."""
        return self._wording.prompt(record)[: self.task.max_length]

    def _answers(self, prompts: list[list[int]]) -> list[str]:
        pad = self.tokenizer.pad_token_id
        padded = self.tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self.model.device)
        firsts = self._first_tokens()
        if firsts is not None:
            positions = (padded["attention_mask"].cumsum(1) - 1).clamp_(min=0)
            output = self.model(**padded, position_ids=positions, logits_to_keep=1, use_cache=False)
            likeliest = output.logits[:, -1, list(firsts.values())].argmax(1).tolist()
            return [list(firsts)[i] for i in likeliest]
        generated = self.model.generate(**padded, max_new_tokens=_ANSWER, do_sample=False, pad_token_id=pad)
        new = generated[:, padded["input_ids"].shape[1] :]
        return [text.strip() for text in self.tokenizer.batch_decode(new, skip_special_tokens=True)]

    def _first_tokens(self) -> dict[str, int] | None:
        """Return the first token of each label's words; None where answers are free text."""
        labels = self._wording.labels
        return None if labels is None else {label: words[0] for label, words in labels.items()}

    @cached_property
    def _packs(self) -> bool:
        return stay_apart(self.model)

    def _answer_logits(self, examples: Sequence[Example]) -> list[torch.Tensor]:
        """Return the logits that predict each example's answer; for each one (answer, vocabulary)."""
        if self._packs:
            return answer_logits(self.model, examples)
        logits = self._logits(collate(examples, self.tokenizer.pad_token_id))
        return [row[-len(example.answer) :] for row, example in zip(logits, examples, strict=True)]

    def _logits(self, padded: Padded) -> torch.Tensor:
        """Return the logits that predict the answers' tokens; (batch, keep, vocabulary)."""
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


@dataclass(frozen=True)
class CausalTask:
    """A `Task` on causal language models, defined by the kind's wording."""

    wording: Callable[[Tokenizer, TaskConfig], Wording]

    def on(self, model: AdaptedModel | CausalModel, tokenizer: Tokenizer, task: TaskConfig) -> CausalLearner:
        """Return a learner of a loaded model."""
        return CausalLearner(model, tokenizer, task, self.wording(tokenizer, task))

    def fresh(self, folder: Path, adapter: AdapterConfig, seed: int, task: TaskConfig) -> CausalLearner:
        """Load the base with a fresh LoRA adapter."""
        model, tokenizer = load_base(folder)
        return self.on(attach(model, adapter, seed), tokenizer, task)

    def released(self, folder: Path, adapter: Path | None, task: TaskConfig) -> CausalLearner:
        """Load the base, with a plain peft adapter if one is given."""
        model, tokenizer = load_base(folder)
        if adapter is not None:
            from peft import PeftModel

            try:
                model = PeftModel.from_pretrained(model, str(adapter)).eval()
            except (OSError, ValueError, RuntimeError) as error:
                why = " ".join(str(error).split())
                raise ModelError(f"{adapter} is no adapter for {folder.name}: {why}") from None
        return self.on(model, tokenizer, task)


def _mean_loss(logits: torch.Tensor, example: Example) -> torch.Tensor:
    """Return the mean over an answer's tokens, so that long examples do not weigh more; fp32, ()."""
    labels = torch.tensor(example.answer, device=logits.device)
    return torch.nn.functional.cross_entropy(logits.float(), labels)


def _answer_losses(logits: torch.Tensor, padded: Padded) -> torch.Tensor:
    """Return the mean losses of examples padded to one size; fp32, (batch,)."""
    labels = padded.labels.to(logits.device)  # (batch, keep)
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="none"
    ).view_as(labels)
    return losses.sum(1) / (labels != IGNORED).sum(1)

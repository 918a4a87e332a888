"""How good a model is on records whose answers are known, and what it says where they are not."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from fedllm.config import TaskConfig
from fedllm.data.records import EVERYTHING, SILO, Record
from fedllm.errors import DataError
from fedllm.models.adapter import AdaptedModel
from fedllm.models.base import CausalModel, Tokenizer
from fedllm.training.examples import IGNORED, collate, encode, encode_prompts, label_tokens
from fedllm.training.local import answer_logits
from fedllm.training.precision import accelerator

_TOKENS = 2048  # a batch, padding counted
_ANSWER = 64  # tokens, the longest answer that `predict` writes


@dataclass(frozen=True)
class GroupMetrics:
    """One group's mean loss, share of right labels (None where there are none), and size."""

    loss: float
    accuracy: float | None
    count: int


@dataclass(frozen=True)
class Evaluation:
    """The same over all records, and by group."""

    loss: float
    accuracy: float | None
    count: int
    by_group: dict[str, GroupMetrics]

    @property
    def mean_accuracy(self) -> float | None:
        """The mean of the groups' accuracies, each group counting alike; None where there are none."""
        found = [group.accuracy for group in self.by_group.values() if group.accuracy is not None]
        return sum(found) / len(found) if found else None


def evaluate(
    model: AdaptedModel | CausalModel,
    tokenizer: Tokenizer,
    records: Sequence[Record],
    task: TaskConfig,
    *,
    between: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Compare a model with records' answers.

    Args:
        model: adapted or bare.
        tokenizer: the base's.
        records: with answers; those without the field `silo` are one group, `all`.
        task: as in training.
        between: called before every batch; what it raises ends the evaluation.

    Raises:
        DataError: no records, or one that the task cannot read.
    """
    if not records:
        raise DataError("no records to evaluate on")
    bare = model.model if isinstance(model, AdaptedModel) else model
    examples = encode(tokenizer, records, task)
    firsts = _first_tokens(tokenizer, task)
    engine = accelerator("auto")
    bare.to(engine.device)
    losses = [0.0] * len(examples)
    right = [False] * len(examples)
    for rows in _batches([example.length for example in examples]):
        between()
        padded = collate([examples[i] for i in rows], tokenizer.pad_token_id)
        with torch.inference_mode(), engine.autocast():
            logits = answer_logits(bare, padded).float().cpu()  # (batch, keep, vocabulary)
        found = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), padded.labels.flatten(), ignore_index=IGNORED, reduction="none"
        ).view_as(padded.labels)
        counted = (padded.labels != IGNORED).sum(1)
        for row, i in enumerate(rows):
            losses[i] = float(found[row].sum() / counted[row])
            if firsts:
                at = logits[row, padded.keep - len(examples[i].answer)]  # (vocabulary,)
                best = firsts[int(at[firsts].argmax())]
                right[i] = best == examples[i].answer[0]
    names = [record.get(SILO, EVERYTHING) for record in records]
    groups = {
        name: _metrics([i for i, mine in enumerate(names) if mine == name], losses, right, bool(firsts))
        for name in sorted(set(names))
    }
    every = _metrics(list(range(len(examples))), losses, right, bool(firsts))
    return Evaluation(every.loss, every.accuracy, every.count, groups)


def predict(
    model: AdaptedModel | CausalModel,
    tokenizer: Tokenizer,
    records: Sequence[Record | str],
    task: TaskConfig,
) -> list[str]:
    """Answer texts or records: the label for a classification, else the words that the model writes."""
    bare = model.model if isinstance(model, AdaptedModel) else model
    asked = [{task.fields.get("text", "text"): one} if isinstance(one, str) else one for one in records]
    prompts = encode_prompts(tokenizer, asked, task)
    labels = label_tokens(tokenizer, task) if task.kind == "classification" else {}
    engine = accelerator("auto")
    bare.to(engine.device)
    answers = [""] * len(prompts)
    for rows in _batches([len(prompt) for prompt in prompts]):
        padded = tokenizer.pad({"input_ids": [prompts[i] for i in rows]}, return_tensors="pt").to(
            engine.device
        )
        with torch.inference_mode(), engine.autocast():
            if labels:
                positions = (padded["attention_mask"].cumsum(1) - 1).clamp_(min=0)
                output = bare(**padded, position_ids=positions, logits_to_keep=1, use_cache=False)
                firsts = [word[0] for word in labels.values()]
                chosen = output.logits[:, -1, firsts].argmax(1).tolist()
                told = [list(labels)[i] for i in chosen]
            else:
                written = bare.generate(
                    **padded, max_new_tokens=_ANSWER, do_sample=False, pad_token_id=tokenizer.pad_token_id
                )
                new = written[:, padded["input_ids"].shape[1] :]
                told = [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
        for i, text in zip(rows, told, strict=True):
            answers[i] = text
    return answers


def _first_tokens(tokenizer: Tokenizer, task: TaskConfig) -> list[int]:
    if task.kind != "classification":
        return []
    return [word[0] for word in label_tokens(tokenizer, task).values()]


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices in batches of like lengths; nothing is learned here, so the order is free."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * lengths[i] > _TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _metrics(rows: list[int], losses: list[float], right: list[bool], labelled: bool) -> GroupMetrics:
    loss = sum(losses[i] for i in rows) / len(rows)
    accuracy = sum(right[i] for i in rows) / len(rows) if labelled else None
    return GroupMetrics(loss, accuracy, len(rows))

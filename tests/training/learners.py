"""Small learners whose gradients by example are known in every detail."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from fedllm.config import AdapterConfig, TaskConfig
from fedllm.data.records import Record
from fedllm.errors import DataError
from fedllm.models.adapter import attach
from fedllm.models.base import Tokenizer, load_base, resolve_base
from fedllm.models.shared import SharedLayout, read_flat, write_flat
from fedllm.tasks.causal import CausalLearner
from fedllm.tasks.examples import Example
from fedllm.tasks.load import causal_learner, wording_of
from fedllm.tasks.metrics import METRICS
from fedllm.training.judged import Judged
from fedllm.training.learner import Learner, Shape

TASK = TaskConfig(
    labels={"positive": " positive", "negative": " negative"},
    template="Text: {text}\nSentiment:",
    max_length=64,
)
TEXTS = ["a", "lovely", "a wonderful day", "great fun, all of it, from end to end", "no fun", "awful, sad"]
RECORDS = [
    {"id": str(i), "text": text, "label": "positive" if i < 4 else "negative", "who": f"person {i % 4}"}
    for i, text in enumerate(TEXTS)
]
PICTURES = [{"id": str(i), "pixels": str(i), "label": str(i % 3), "who": f"person {i % 4}"} for i in range(6)]


MEASURES = {name: METRICS[name].compute for name in ("loss", "accuracy")}


def encode(tokenizer: Tokenizer, records: Iterable[Record], task: TaskConfig) -> list[Example]:
    """Records as tokens, without a model."""
    wording = wording_of(tokenizer, task)
    return [wording.example(record) for record in records]


def text_learner(method: Literal["ffa-lora", "lora"] = "ffa-lora", task: TaskConfig = TASK) -> CausalLearner:
    """The tiny LLM, its adapter somewhere away from zero: there A's gradients would be none."""
    model, tokenizer = load_base(resolve_base("tiny"))
    learner = causal_learner(attach(model, AdapterConfig(method=method), 7), tokenizer, task)
    drawn = torch.randn(learner.shared.layout.size, generator=torch.Generator().manual_seed(7))
    learner.shared.write(learner.shared.read() + 0.3 * drawn)
    return learner


class Pictures:
    """A small CNN with all its weights shared; a record's number seeds its pixels, 8 x 8."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            self.model = torch.nn.Sequential(
                torch.nn.Conv2d(1, 4, 3, padding=1),
                torch.nn.ReLU(),
                torch.nn.MaxPool2d(2),
                torch.nn.Conv2d(4, 6, 3),
                torch.nn.Tanh(),
                torch.nn.Flatten(),
                torch.nn.Dropout(0.5),  # left in by somebody: it must not act
                torch.nn.Linear(24, 3),
            ).eval()
        self.trainable = list(self.model.parameters())
        names = tuple(name for name, _ in self.model.named_parameters())
        self.layout = SharedLayout(names, tuple(tuple(p.shape) for p in self.trainable))
        self.frozen_sha256 = ""

    @property
    def shared(self) -> "Pictures":
        return self

    def read(self) -> torch.Tensor:
        return read_flat(self.trainable)

    def write(self, flat: torch.Tensor) -> None:
        write_flat(self.trainable, flat)

    def save(self, folder: Path, base: str | None = None) -> None:
        raise NotImplementedError

    def encode(self, records: Iterable[Record]) -> list[tuple[torch.Tensor, int]]:
        return [self._encode(record) for record in records]

    def _encode(self, record: Record) -> tuple[torch.Tensor, int]:
        if not record["pixels"].isdecimal():
            raise DataError(f"record {record['id']}: no picture")
        chance = torch.Generator().manual_seed(int(record["pixels"]))
        return torch.randn(1, 8, 8, generator=chance), int(record["label"])

    def split(self, examples: Sequence[Any]) -> list[list[int]]:
        return [list(range(start, min(start + 4, len(examples)))) for start in range(0, len(examples), 4)]

    def shape(self, example: object) -> Shape:
        del example
        return Shape((), 4)

    def trials(self, count: int) -> list[list[Any]]:
        return [self.encode({"pixels": str(i), "label": str(i % 3)} for i in range(min(count, 4)))]

    def losses(self, examples: Sequence[Any], size: tuple[int, ...] | None = None) -> torch.Tensor:
        del size
        pictures = torch.stack([picture for picture, _ in examples])
        labels = torch.tensor([label for _, label in examples])
        return torch.nn.functional.cross_entropy(self.model(pictures), labels, reduction="none")

    def judge(self, examples: Sequence[Any]) -> list[Judged]:
        return [Judged(loss) for loss in self.losses(examples).tolist()]

    def predict(self, records: Sequence[Record | str]) -> list[str]:
        raise NotImplementedError


def learner_and_records(kind: str) -> tuple[Learner, list[Record]]:
    """By name: `ffa-lora`, `lora` or `cnn`, with records it can read."""
    if kind == "cnn":
        return Pictures(), list(PICTURES)
    return text_learner("lora" if kind == "lora" else "ffa-lora"), list(RECORDS)

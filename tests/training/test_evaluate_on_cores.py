"""An evaluation takes one batch per core, and answers as one core would."""

import threading
from collections.abc import Iterator

import pytest
import torch

from fedllm.config import AdapterConfig, TaskConfig
from fedllm.errors import CancelledError
from fedllm.models.adapter import attach
from fedllm.models.base import load_base, resolve_base
from fedllm.tasks import text
from fedllm.tasks.text import TextLearner
from fedllm.training.evaluate import evaluate

TASK = TaskConfig(
    labels={"positive": " positive", "negative": " negative"}, template="Text: {text}\nSentiment:"
)
RECORDS = [
    {"id": str(i), "text": "a lovely day " * (1 + i % 7) + str(i), "label": ("positive", "negative")[i % 2]}
    for i in range(60)
]


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch) -> TextLearner:
    monkeypatch.setattr(text, "_ROW", 128)  # so that there are many batches
    model, tokenizer = load_base(resolve_base("tiny"))
    return TextLearner(attach(model, AdapterConfig(), 7), tokenizer, TASK)


@pytest.fixture
def cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("cores")
def test_several_cores_answer_as_one_does_and_in_the_records_order(
    learner: TextLearner, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: set[int] = set()
    judge = learner.judge
    monkeypatch.setattr(learner, "judge", lambda given: where.add(threading.get_ident()) or judge(given))
    told: list[int] = []
    together = evaluate(learner, RECORDS, progress=told.append)
    assert threading.get_ident() not in where
    assert len(where) > 1
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0, len(RECORDS))
    torch.set_num_threads(1)
    where.clear()
    alone = evaluate(learner, RECORDS)
    assert where == {threading.get_ident()}
    assert together.right == alone.right
    assert together.losses == pytest.approx(alone.losses, rel=1e-5)


@pytest.mark.usefixtures("cores")
def test_one_that_is_stopped_leaves_pytorchs_threads_as_they_were(learner: TextLearner) -> None:
    def cancelled(done: int) -> None:
        if done:
            raise CancelledError("enough")

    with pytest.raises(CancelledError):
        evaluate(learner, RECORDS, progress=cancelled)
    assert torch.get_num_threads() == 3
    evaluate(learner, RECORDS)
    assert torch.get_num_threads() == 3

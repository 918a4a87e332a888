"""An evaluation takes one batch per core, and answers as one core would."""

import threading
from collections.abc import Iterator

import pytest
import torch

from fedllm.config import AdapterConfig, TaskConfig
from fedllm.errors import CancelledError
from fedllm.models.adapter import attach
from fedllm.models.base import load_base, resolve_base
from fedllm.tasks import causal
from fedllm.tasks.causal import CausalLearner
from fedllm.tasks.load import causal_learner
from fedllm.training.evaluate import evaluate
from tests.training.learners import MEASURES

TASK = TaskConfig(
    labels={"positive": " positive", "negative": " negative"}, template="Text: {text}\nSentiment:"
)
RECORDS = [
    {"id": str(i), "text": "a lovely day " * (1 + i % 7) + str(i), "label": ("positive", "negative")[i % 2]}
    for i in range(60)
]


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch) -> CausalLearner:
    monkeypatch.setattr(causal, "_ROW", 128)  # so that there are many batches
    model, tokenizer = load_base(resolve_base("tiny"))
    return causal_learner(attach(model, AdapterConfig(), 7), tokenizer, TASK)


@pytest.fixture
def cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("cores")
def test_several_cores_answer_as_one_does_and_in_the_records_order(
    learner: CausalLearner, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: set[int] = set()
    judge = learner.judge
    monkeypatch.setattr(learner, "judge", lambda given: where.add(threading.get_ident()) or judge(given))
    told: list[int] = []
    together = evaluate(learner, RECORDS, MEASURES, progress=told.append)
    assert threading.get_ident() not in where
    assert len(where) > 1
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0, len(RECORDS))
    torch.set_num_threads(1)
    where.clear()
    alone = evaluate(learner, RECORDS, MEASURES)
    assert where == {threading.get_ident()}
    assert [one[1:] for one in together.judged] == [one[1:] for one in alone.judged]
    assert [one.loss for one in together.judged] == pytest.approx(
        [one.loss for one in alone.judged], rel=1e-5
    )


@pytest.mark.usefixtures("cores")
def test_one_that_is_stopped_leaves_pytorchs_threads_as_they_were(learner: CausalLearner) -> None:
    def cancelled(done: int) -> None:
        if done:
            raise CancelledError("enough")

    with pytest.raises(CancelledError):
        evaluate(learner, RECORDS, MEASURES, progress=cancelled)
    assert torch.get_num_threads() == 3
    evaluate(learner, RECORDS, MEASURES)
    assert torch.get_num_threads() == 3

import copy
from typing import Any

import pytest
import torch

from fedllm.config import AdapterConfig, LocalConfig, TaskConfig
from fedllm.errors import DataError, ModelError, TrainingError
from fedllm.models.adapter import AdaptedModel, attach
from fedllm.models.base import Tokenizer, load_base, resolve_base
from fedllm.tasks.examples import IGNORED, Example, collate
from fedllm.tasks.load import causal_learner
from fedllm.tasks.loss import LOSS
from fedllm.training.batches import draw
from fedllm.training.evaluate import evaluate, predict
from fedllm.training.local import TrainingResult, rate, train
from fedllm.training.precision import accelerator
from tests.training.learners import MEASURES, encode

TASK = TaskConfig(
    labels={"positive": " positive", "negative": " negative"},
    template="Text: {text}\nSentiment:",
    max_length=64,
)
GOOD, BAD = ["lovely", "wonderful day", "great fun", "yay"], ["awful", "a bad day", "no fun at all", "nay"]
RECORDS = [{"id": f"p{i}", "text": text, "label": "positive", "silo": "a"} for i, text in enumerate(GOOD)] + [
    {"id": f"n{i}", "text": text, "label": "negative", "silo": "b"} for i, text in enumerate(BAD)
]
LOCAL = LocalConfig(lr=1e-2, steps=30, batch_size=8, precision="fp32")


@pytest.fixture
def tiny() -> tuple[AdaptedModel, Tokenizer]:
    model, tokenizer = load_base(resolve_base("tiny"))
    return attach(model, AdapterConfig(), 7), tokenizer


def run(
    model: AdaptedModel,
    tokenizer: Tokenizer,
    local: LocalConfig = LOCAL,
    **terms: Any,  # noqa: ANN401 - what `train` takes
) -> TrainingResult:
    terms = {"steps": local.steps, "round_number": 1, "rounds": 1, "seed": 7} | terms
    records = terms.pop("records", RECORDS)
    return train(causal_learner(model, tokenizer, terms.pop("task", TASK)), records, local, **terms)


def test_training_learns(tiny: tuple[AdaptedModel, Tokenizer]) -> None:
    before = evaluate(causal_learner(*tiny, TASK), RECORDS, MEASURES)
    run(*tiny)
    after = evaluate(causal_learner(*tiny, TASK), RECORDS, MEASURES)
    assert after.metrics["loss"] < before.metrics["loss"] / 2
    assert after.metrics["accuracy"] == 1.0


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_two_runs_are_the_same_to_the_bit(optimizer: str) -> None:
    ends = []
    for _ in range(2):
        base, tokenizer = load_base(resolve_base("tiny"))
        model = attach(base, AdapterConfig(), 7)
        run(model, tokenizer, LOCAL.model_copy(update={"optimizer": optimizer, "momentum": 0.9}), steps=5)
        ends.append(model.read())
    assert torch.equal(*ends)


def test_another_round_draws_other_batches() -> None:
    assert list(draw(100, 8, 3, (7, 1))) != list(draw(100, 8, 3, (7, 2)))


def test_every_record_comes_once_before_any_comes_twice() -> None:
    drawn = [i for batch in draw(10, 4, 5, (7, 1)) for i in batch]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))


def test_a_batch_larger_than_the_data_goes_over_them_again() -> None:
    (batch,) = draw(3, 8, 1, (7, 1))
    assert sorted(batch.count(i) for i in range(3)) == [2, 3, 3]


def _gradient(model: AdaptedModel, tokenizer: Tokenizer, parts: list[list[Example]]) -> torch.Tensor:
    count = sum(len(part) for part in parts)
    for parameter in model.trainable:
        parameter.grad = None
    for part in parts:
        (causal_learner(model, tokenizer, TASK).losses(part).sum() / count).backward()  # type: ignore[no-untyped-call]
    grads = [parameter.grad.flatten() for parameter in model.trainable if parameter.grad is not None]
    return torch.cat(grads)


def test_the_gradient_does_not_depend_on_the_split(tiny: tuple[AdaptedModel, Tokenizer]) -> None:
    model, tokenizer = tiny
    examples = encode(tokenizer, RECORDS, TASK)
    whole = _gradient(model, tokenizer, [examples])
    for parts in ([[example] for example in examples], [examples[:3], examples[3:]]):
        assert torch.allclose(_gradient(model, tokenizer, parts), whole, atol=1e-5 * float(whole.abs().max()))


def test_logits_at_the_labels_are_those_of_the_whole_sequence(tiny: tuple[AdaptedModel, Tokenizer]) -> None:
    model, tokenizer = tiny
    model.write(torch.randn(model.layout.size))
    examples = [*encode(tokenizer, RECORDS, TASK), Example((5, 6, 7), (8, 9, 10))]
    kept = causal_learner(model, tokenizer, TASK)._logits(collate(examples, 0))
    for row, example in enumerate(examples):
        alone = model.model(input_ids=torch.tensor([(*example.prompt, *example.answer)])).logits[0]
        for place in range(len(example.answer)):
            wanted = alone[len(example.prompt) + place - 1]
            assert torch.allclose(kept[row, place - len(example.answer)], wanted, atol=1e-5)


def test_a_long_example_weighs_no_more_than_a_short_one(tiny: tuple[AdaptedModel, Tokenizer]) -> None:
    learner = causal_learner(*tiny, TASK)
    short, long = Example((5,), (8,)), Example((5,), (8, 9, 10, 11))
    together = learner.losses([short, long])
    apart = [learner.losses([example])[0] for example in (short, long)]
    assert torch.allclose(together, torch.stack(apart), atol=1e-5)


def test_padding_is_left_and_labels_are_right() -> None:
    padded = collate([Example((5, 6), (7,)), Example((5, 6, 7), (8, 9))], pad=0)
    assert padded.tokens.tolist() == [[0, 0, 5, 6], [5, 6, 7, 8]]
    assert padded.positions.tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]
    assert padded.labels.tolist() == [[IGNORED, 7], [8, 9]]


def test_a_long_text_is_cut_but_not_the_question_after_it(tiny: tuple[AdaptedModel, Tokenizer]) -> None:
    _, tokenizer = tiny
    (example,) = encode(tokenizer, [{"text": "x" * 500, "label": "positive"}], TASK)
    assert len(example.prompt) + len(example.answer) == TASK.max_length
    assert tokenizer.decode(example.prompt).endswith("x\nSentiment:")


def test_braces_in_a_text_are_text(tiny: tuple[AdaptedModel, Tokenizer]) -> None:
    _, tokenizer = tiny
    (example,) = encode(tokenizer, [{"text": "{label} {x", "label": "positive"}], TASK)
    assert tokenizer.decode(example.prompt) == "Text: {label} {x\nSentiment:"


def test_fedprox_stays_nearer_to_the_start() -> None:
    moved = []
    for extra in ({}, {"algorithm": "fedprox", "prox_mu": 100.0}):
        base, tokenizer = load_base(resolve_base("tiny"))
        model = attach(base, AdapterConfig(), 7)
        run(model, tokenizer, LocalConfig(lr=1e-3, optimizer="sgd", steps=10, precision="fp32", **extra))
        moved.append(float(model.read().norm()))
    assert 0 < moved[1] < moved[0]


def test_schedules_span_the_federation() -> None:
    linear = LocalConfig(schedule="linear", steps=10)
    assert [rate(linear, step, 30) for step in (1, 16)] == [1.0, 0.5]
    cosine = LocalConfig(schedule="cosine", warmup=10)
    assert rate(cosine, 5, 30) == 0.5
    assert rate(cosine, 11, 30) == 1.0
    assert rate(cosine, 21, 30) == pytest.approx(0.5)
    assert rate(LocalConfig(), 29, 30) == 1.0


def test_a_late_round_of_a_decaying_schedule_moves_less() -> None:
    moved = []
    for round_number in (1, 4):
        base, tokenizer = load_base(resolve_base("tiny"))
        model = attach(base, AdapterConfig(), 7)
        local = LOCAL.model_copy(update={"schedule": "linear"})
        run(model, tokenizer, local, steps=5, round_number=round_number, rounds=4)
        moved.append(float(model.read().norm()))
    assert moved[1] < moved[0] / 2


def test_progress_is_told_after_every_step(tiny: tuple[AdaptedModel, Tokenizer]) -> None:
    told: list[tuple[int, int]] = []
    result = run(*tiny, steps=3, progress=lambda step, steps: told.append((step, steps)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert (result.steps, result.examples) == (3, 24)


def test_training_that_changes_nothing_is_an_error(tiny: tuple[AdaptedModel, Tokenizer]) -> None:
    with pytest.raises(TrainingError, match="did not change the adapter"):
        run(*tiny, LOCAL.model_copy(update={"lr": 1e-45, "optimizer": "sgd"}), steps=1)


def test_a_loss_that_is_not_finite_is_an_error(tiny: tuple[AdaptedModel, Tokenizer]) -> None:
    model, tokenizer = tiny
    model.write(torch.full((model.layout.size,), float("nan")))
    with pytest.raises(TrainingError, match="loss is nan at step 1"):
        run(model, tokenizer)


def test_labels_that_start_alike_are_refused(tiny: tuple[AdaptedModel, Tokenizer]) -> None:
    # In bytes, both start with a blank.
    alike = TASK.model_copy(update={"labels": {"a": " good", "b": " bad"}})
    with pytest.raises(ModelError, match="different tokens"):
        run(*tiny, task=alike)


@pytest.mark.parametrize("record", [{"text": "x"}, {"label": "positive"}, {"text": "x", "label": "odd"}])
def test_a_record_that_does_not_fit_is_named(
    tiny: tuple[AdaptedModel, Tokenizer], record: dict[str, str]
) -> None:
    with pytest.raises(DataError, match="record r9"):
        run(*tiny, records=[record | {"id": "r9"}])


def test_evaluation_is_by_silo_and_predicts_what_it_counts(tiny: tuple[AdaptedModel, Tokenizer]) -> None:
    run(*tiny, steps=3)
    found = evaluate(causal_learner(*tiny, TASK), RECORDS, MEASURES)
    said = predict(causal_learner(*tiny, TASK), [record["text"] for record in RECORDS])
    right = [one == record["label"] for one, record in zip(said, RECORDS, strict=True)]
    assert found.by_group["a"].metrics["accuracy"] == sum(right[:4]) / 4
    assert found.by_group["b"].metrics["accuracy"] == sum(right[4:]) / 4
    assert found.metrics["accuracy"] == sum(right) / 8
    groups = [group.metrics["accuracy"] for group in found.by_group.values()]
    assert found.metrics["accuracy"] == sum(groups) / 2  # the groups are of one size
    assert (found.count, found.by_group["a"].count) == (8, 4)


def test_records_without_a_silo_are_one_group(tiny: tuple[AdaptedModel, Tokenizer]) -> None:
    bare = [{key: value for key, value in record.items() if key != "silo"} for record in RECORDS]
    assert list(evaluate(causal_learner(*tiny, TASK), bare, MEASURES).by_group) == ["all"]


@pytest.mark.parametrize("kind", ["chat", "summarization", "text"])
def test_tasks_that_write_words_learn_too(tiny: tuple[AdaptedModel, Tokenizer], kind: str) -> None:
    task = TaskConfig.model_validate(
        {"kind": kind, "fields": {"text": "text", "answer": "answer"}, "template": "{text}", "max_length": 64}
    )
    records = [{"text": "ping", "answer": "pong"}]
    before = evaluate(causal_learner(*tiny, task), records, {"loss": LOSS.compute})
    run(*tiny, task=task, records=records)
    after = evaluate(causal_learner(*tiny, task), records, {"loss": LOSS.compute})
    assert after.metrics["loss"] < before.metrics["loss"]
    assert after.judged[0].expected is None
    assert isinstance(predict(causal_learner(*tiny, task), ["ping"])[0], str)


def test_one_process_can_change_its_precision(tiny: tuple[AdaptedModel, Tokenizer]) -> None:
    assert [accelerator(one).mixed_precision for one in ("bf16", "fp32", "bf16")] == ["bf16", "no", "bf16"]
    start = copy.deepcopy(tiny[0].read())
    run(*tiny, LOCAL.model_copy(update={"precision": "bf16"}), steps=2)
    assert not torch.equal(tiny[0].read(), start)

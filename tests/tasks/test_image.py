"""Images as examples: what is refused, features that are computed once, gradients by example, learning."""

import base64

import numpy as np
import pytest
import torch

from fedllm.config import AdapterConfig, LocalConfig, TaskConfig
from fedllm.data.records import Record
from fedllm.errors import DataError, ModelError
from fedllm.models.base import resolve_base
from fedllm.protocol.terms import PrivateTerms
from fedllm.tasks.image import ImageLearner
from fedllm.tasks.load import load_learner
from fedllm.training.dp import train_privately
from fedllm.training.evaluate import evaluate, predict
from fedllm.training.local import train
from fedllm.training.passes import Passes
from fedllm.training.per_example import per_example_gradients
from fedllm.training.precision import accelerator
from tests.training.learners import MEASURES

DIGITS = TaskConfig(
    kind="image",
    fields={"image": "image", "label": "label"},
    labels={str(i): str(i) for i in range(10)},
    template="",
)
NAMES = ["mnist-cnn", "mnist-scattering"]


def learner(name: str) -> ImageLearner:
    made = load_learner(resolve_base(name), AdapterConfig(method="full"), 7, DIGITS)
    assert isinstance(made, ImageLearner)
    return made


def bars(count: int, seed: int = 1) -> list[Record]:
    """Noisy pictures with a bar at the height that is their label."""
    chance = np.random.default_rng(seed)
    records = []
    for i in range(count):
        pixels = chance.integers(0, 60, (28, 28), dtype=np.uint8)
        pixels[4 + 2 * (i % 10) : 7 + 2 * (i % 10), 4:24] = 230
        image = base64.b64encode(pixels.tobytes()).decode()
        records.append({"id": str(i), "image": image, "label": str(i % 10)})
    return records


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": "no base64!"}, "record 7: its image is not base64"),
        ({"image": base64.b64encode(bytes(783)).decode()}, "record 7: its image has 783 bytes, not 28 x 28"),
        ({"label": "ten"}, "record 7: label 'ten' is not in task.labels"),
    ],
)
def test_a_record_that_is_no_labelled_image_is_named(change: dict[str, str], reason: str) -> None:
    good = {**bars(1)[0], "id": "7"}
    with pytest.raises(DataError, match=reason):
        learner("mnist-cnn").encode([{**good, **change}])
    with pytest.raises(DataError, match="record 7: no field 'image'"):
        learner("mnist-cnn").encode([{"id": "7", "label": "1"}])


def test_a_task_with_another_number_of_labels_is_refused() -> None:
    task = DIGITS.model_copy(update={"labels": {"0": "0", "1": "1"}})
    with pytest.raises(ModelError, match="2 labels, mnist-cnn has 10"):
        load_learner(resolve_base("mnist-cnn"), AdapterConfig(method="full"), 7, task)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_a_loop_over_single_images(name: str) -> None:
    mine = learner(name)
    drawn = torch.randn(mine.shared.layout.size, generator=torch.Generator().manual_seed(7))
    mine.shared.write(mine.shared.read() + 0.01 * drawn)
    examples = mine.encode(bars(5))
    with per_example_gradients(mine, accelerator("fp32")) as gradients:
        found = gradients(examples, ())
    alone = [torch.autograd.grad(mine.losses([one]).sum(), mine.shared.trainable) for one in examples]
    for i, tensor in enumerate(found):
        due = torch.stack([row[i] for row in alone])
        assert due.abs().max() > 1e-3
        torch.testing.assert_close(tensor, due, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_keeps_its_gradient_to_the_bit_in_whatever_company_it_is(name: str) -> None:
    mine, engine = learner(name), accelerator("fp32")
    drawn = torch.randn(mine.shared.layout.size, generator=torch.Generator().manual_seed(7))
    mine.shared.write(mine.shared.read() + 0.01 * drawn)
    first, *others = mine.encode(bars(20))
    with per_example_gradients(mine, engine) as gradients:
        passes = Passes(mine, gradients, engine)
        seen = []
        for company, place in (([first], 0), ([*others, first], 19), ([*others[:6], first, *others[:2]], 6)):
            (rows, found), *more = passes(company)
            assert not more
            seen.append(torch.cat([part[rows.index(place)].flatten() for part in found]))
    assert seen[0].abs().max() > 1e-3
    assert all(torch.equal(one, seen[0]) for one in seen)


@pytest.mark.parametrize("name", NAMES)
def test_a_micro_batch_holds_a_bounded_number_of_gradients(name: str) -> None:
    mine = learner(name)
    parts = mine.split(mine.encode(bars(70)))
    assert [i for part in parts for i in part] == list(range(70))
    assert max(map(len, parts)) * mine.shared.layout.size * 4 < 400e6  # bytes


def test_images_that_were_evaluated_can_be_trained_on() -> None:
    mine = learner("mnist-scattering")
    before = evaluate(mine, bars(20), MEASURES).metrics["loss"]
    local = LocalConfig(optimizer="sgd", lr=0.01, steps=5, batch_size=10)
    train(mine, bars(20), local, steps=5, round_number=1, rounds=1, seed=1)
    assert evaluate(mine, bars(20), MEASURES).metrics["loss"] < before


@pytest.mark.parametrize(("name", "lr", "steps"), [("mnist-cnn", 0.05, 40), ("mnist-scattering", 0.02, 60)])
def test_bars_are_learned_and_told_by_their_labels(name: str, lr: float, steps: int) -> None:
    mine, unseen = learner(name), bars(50, seed=2)
    local = LocalConfig(optimizer="sgd", lr=lr, momentum=0.9, steps=steps, batch_size=20, max_grad_norm=5)
    train(mine, bars(200), local, steps=steps, round_number=1, rounds=1, seed=1)
    found = evaluate(mine, unseen, MEASURES)
    assert found.metrics["accuracy"] > 0.9
    told = predict(mine, [{"image": record["image"]} for record in unseen])
    right = sum(answer == record["label"] for answer, record in zip(told, unseen, strict=True))
    assert right / 50 == pytest.approx(found.metrics["accuracy"])
    assert predict(mine, [unseen[3]["image"]]) == [told[3]]


def test_bars_are_learned_privately() -> None:
    mine = learner("mnist-scattering")
    local = LocalConfig(optimizer="sgd", lr=4, momentum=0.9, steps=20, batch_size=100)
    terms = PrivateTerms(unit="record", sampling_rate=0.5, noise_multiplier=0.5, clip=0.1)
    train_privately(mine, bars(200), local, terms, steps=20, round_number=1, rounds=1)
    found = evaluate(mine, bars(50, seed=2), MEASURES).metrics["accuracy"]
    assert found is not None
    assert found > 0.9

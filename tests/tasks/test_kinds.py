"""The seam of tasks: each kind has its row and its file; nobody compares names of kinds or of metrics."""

import ast
from pathlib import Path

import pytest

import fedllm
from fedllm.config import TaskConfig
from fedllm.config.kinds import KINDS
from fedllm.config.new_file import NEW_KINDS
from fedllm.errors import ModelError
from fedllm.models.base import load_base, resolve_base
from fedllm.tasks.causal import CausalLearner
from fedllm.tasks.load import _TASKS, causal_learner, load_learner, wording_of
from fedllm.tasks.metrics import METRICS

ROOT = Path(fedllm.__file__).parents[1]
SOURCES = sorted([*(ROOT / "fedllm").rglob("*.py"), *(ROOT / "flows").rglob("*.py")])
FIELDS = {"text": "text", "label": "label", "answer": "answer", "image": "image"}
LABELS = {"positive": " positive", "negative": " negative"}


def compared(path: Path) -> set[str]:
    """The texts that a module compares something with, or looks for in something."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    sides = [side for one in nodes if isinstance(one, ast.Compare) for side in (one.left, *one.comparators)]
    parts = [part for side in sides for part in ast.walk(side)]
    return {part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def test_no_module_compares_anything_with_the_name_of_a_kind_or_of_a_metric() -> None:
    # `image` and `text` are names of fields and of canaries as well.
    names = {*KINDS, *METRICS} - {"image", "text"}
    assert {str(path.relative_to(ROOT)): words for path in SOURCES if (words := compared(path) & names)} == {}


def test_every_kind_has_a_file_and_an_own_metric_that_it_can_compute() -> None:
    assert _TASKS.keys() == KINDS.keys()
    assert set(NEW_KINDS) <= KINDS.keys()
    for traits in KINDS.values():
        assert traits.labels or not METRICS[traits.metric].of_labels


@pytest.mark.parametrize("kind", [kind for kind, traits in KINDS.items() if traits.tokens])
def test_a_text_kinds_prompt_is_what_its_examples_begin_with(kind: str) -> None:
    task = TaskConfig.model_validate({"kind": kind, "fields": FIELDS, "labels": LABELS, "max_length": 64})
    _, tokenizer = load_base(resolve_base("tiny"))
    wording = wording_of(tokenizer, task)
    record = {"text": "a lovely day", "label": "positive", "answer": "yes"}
    example = wording.example(record)
    assert (wording.labels is not None) == task.traits.labels
    assert not wording.is_cut(record)
    if task.traits.continues:
        assert list(example.answer) == wording.prompt(record)
    else:
        assert list(example.prompt) == wording.prompt(record)
    long = record | {"text": "a lovely day " * 20}
    assert wording.is_cut(long)
    cut = wording.example(long)
    assert len(cut.prompt) + len(cut.answer) == task.max_length


def test_a_classification_says_how_sure_it_is_and_the_likeliest_label_is_its_answer() -> None:
    model, tokenizer = load_base(resolve_base("tiny"))
    learner = causal_learner(model, tokenizer, TaskConfig(labels=LABELS))
    assert isinstance(learner, CausalLearner)
    record = {"text": "a lovely day"}
    shares = learner.probabilities(record)
    assert shares is not None
    assert sum(shares.values()) == pytest.approx(1)
    assert learner.predict([record]) == [max(shares, key=lambda label: shares[label])]


def test_a_kind_that_writes_words_says_no_probabilities() -> None:
    model, tokenizer = load_base(resolve_base("tiny"))
    task = TaskConfig(kind="text", fields={"text": "text"})
    assert causal_learner(model, tokenizer, task).probabilities({"text": "a day"}) is None


def test_an_image_task_does_not_go_with_a_language_model() -> None:
    image = TaskConfig.model_validate(
        {"kind": "image", "fields": FIELDS, "labels": {str(n): str(n) for n in range(10)}, "template": ""}
    )
    folder = resolve_base("tiny")
    with pytest.raises(ModelError, match=r"task\.kind image do not go together"):
        load_learner(folder, fedllm.config.AdapterConfig(), 7, image)
    model, tokenizer = load_base(folder)
    with pytest.raises(ModelError, match=r"task\.kind image is not on texts"):
        causal_learner(model, tokenizer, image)

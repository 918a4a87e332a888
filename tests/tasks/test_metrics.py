"""Each metric against an independent computation, and which of them counts."""

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import f1_score

from fedllm.config import TaskConfig
from fedllm.config.kinds import KINDS
from fedllm.errors import ConfigError
from fedllm.tasks.metric import Measured
from fedllm.tasks.metrics import METRICS, main_metric, measured_metrics, metric_of
from fedllm.training.judged import Judged
from fedllm.training.public_answers import PublicAnswers, public_answers

ACCURACY, LOSS, MACRO_F1 = (METRICS[name] for name in ("accuracy", "loss", "macro_f1"))
CLASSES = TaskConfig(labels={"a": " a", "b": " b"})
CHAT = TaskConfig(kind="chat", fields={"text": "text", "answer": "answer"})
LABELS = np.array(["a", "b", "c"])


def judgements(expected: Sequence[str], given: Sequence[str]) -> list[Judged]:
    return [Judged(0.5, str(one), str(other)) for one, other in zip(expected, given, strict=True)]


def drawn(records: int, right: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which one is rare, and answers to them."""
    expected = np.random.default_rng(0).choice(LABELS, records, p=[0.6, 0.3, 0.1])
    chance = np.random.default_rng(seed)
    return expected, np.where(chance.random(records) < right, expected, chance.choice(LABELS, records))


def answers(expected: Sequence[str], given: Sequence[str]) -> PublicAnswers:
    records = [{"text": str(n)} for n in range(len(expected))]
    kept = public_answers(records, judgements(expected, given), ("labels",))
    assert kept is not None
    return kept


def measured(expected: Sequence[str], given: Sequence[str]) -> Measured:
    value = MACRO_F1.compute(judgements(expected, given))
    return Measured({"macro_f1": value}, len(expected), answers(expected, given), "macro_f1")


def plain(expected: np.ndarray, given: np.ndarray) -> float:
    """Macro F1 by its definition; scikit-learn's takes milliseconds, and a bootstrap needs hundreds."""
    present = set(expected) | set(given)
    right = {one: np.sum((expected == one) & (given == one)) for one in present}
    return float(
        np.mean([2 * right[one] / np.sum((expected == one) * 1 + (given == one)) for one in present])
    )


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_is_scikit_learns(seed: int) -> None:
    chance = np.random.default_rng(seed)
    expected, given = chance.choice(LABELS, 37), chance.choice(LABELS, 37)
    wanted = f1_score(expected, given, average="macro")
    assert MACRO_F1.compute(judgements(expected, given)) == pytest.approx(wanted, abs=1e-12)
    assert plain(expected, given) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(
    ("expected", "given"),
    [
        ("aab", "aaa"),  # a label that is never given
        ("aaa", "aab"),  # one that is never expected
        ("ab", "ba"),  # nothing is right
        ("aa", "aa"),  # one label alone, all right
    ],
)
def test_macro_f1_of_labels_that_are_absent_on_one_side_is_scikit_learns(expected: str, given: str) -> None:
    wanted = f1_score(list(expected), list(given), average="macro", zero_division=0)
    assert MACRO_F1.compute(judgements(expected, given)) == pytest.approx(wanted, abs=1e-12)


def test_the_interval_of_macro_f1_is_that_of_resampled_records() -> None:
    expected, given = drawn(150, 0.7, 1)
    chance = np.random.default_rng(99)
    scores = []
    for _ in range(1000):
        rows = chance.integers(0, 150, 150)
        scores.append(plain(expected[rows], given[rows]))
    interval = MACRO_F1.interval(0.0, 150, answers(expected, given))
    assert interval == pytest.approx(tuple(np.quantile(scores, [0.025, 0.975])), abs=0.015)


def test_two_models_are_compared_on_the_same_resamples() -> None:
    (expected, first), (_, second) = drawn(150, 0.8, 1), drawn(150, 0.5, 2)
    chance = np.random.default_rng(99)
    differences = []
    for _ in range(1000):
        rows = chance.integers(0, 150, 150)
        differences.append(plain(expected[rows], first[rows]) - plain(expected[rows], second[rows]))
    found = MACRO_F1.compare(measured(expected, first), measured(expected, second))
    assert found.interval is not None
    wanted = tuple(np.quantile(differences, [0.025, 0.975]))
    assert (found.interval.low, found.interval.high) == pytest.approx(wanted, abs=0.015)
    assert found.value == pytest.approx(plain(expected, first) - plain(expected, second))
    assert "points of macro F1 (95 %: +" in found.words
    assert "paired on 150 records, percentile bootstrap of 2000 resamples" in found.words


def test_a_comparison_is_the_same_every_time_and_a_model_is_no_better_than_itself() -> None:
    (expected, first), (_, second) = drawn(60, 0.8, 1), drawn(60, 0.5, 2)
    one, other = measured(expected, first), measured(expected, second)
    assert MACRO_F1.compare(one, other) == MACRO_F1.compare(one, other)
    same = MACRO_F1.compare(one, one)
    assert same.interval is not None
    assert (same.value, same.interval.low, same.interval.high) == (0, 0, 0)


def test_one_record_shows_nothing_of_macro_f1() -> None:
    one, other = measured("a", "a"), measured("a", "b")
    found = MACRO_F1.compare(other, one)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == (-float("inf"), float("inf"))
    assert MACRO_F1.interval(1.0, 1, one.answers) is None


def test_without_labels_on_record_macro_f1_has_no_interval() -> None:
    kept = public_answers([{"text": "0"}, {"text": "1"}], judgements("ab", "ab"))
    bare = Measured({"macro_f1": 0.5}, 2, kept, "macro_f1")
    found = MACRO_F1.compare(bare, bare)
    assert (found.interval, found.how) == (None, "not paired, for labels are not on record")
    assert MACRO_F1.interval(0.5, 2, kept) is None


def test_accuracy_and_loss_are_means_over_records() -> None:
    rows = [Judged(1.0, "a", "a"), Judged(2.0, "a", "b"), Judged(6.0, "b", "b"), Judged(3.0, "b", "a")]
    assert (ACCURACY.compute(rows), LOSS.compute(rows)) == (0.5, 3.0)


def test_a_value_is_shown_in_its_unit_and_scored_in_its_direction() -> None:
    assert [one.shown(0.5) for one in (ACCURACY, LOSS, MACRO_F1)] == ["50.0 %", "0.5000", "50.0 %"]
    assert [one.signed(-0.25) for one in (ACCURACY, LOSS)] == ["-25.0", "-0.2500"]
    assert (ACCURACY.score(0.5), LOSS.score(0.5)) == (0.5, -0.5)


def test_auto_is_the_kinds_own_metric() -> None:
    own = {kind: METRICS[traits.metric].name for kind, traits in KINDS.items()}
    assert own == {
        "classification": "accuracy",
        "image": "accuracy",
        "chat": "loss",
        "summarization": "loss",
        "text": "loss",
    }


@pytest.mark.parametrize(
    ("task", "name", "line"),
    [
        (CLASSES, "acuracy", "there is no metric 'acuracy'; use auto or accuracy, loss, macro_f1"),
        (CHAT, "rouge", "there is no metric 'rouge'; use auto or loss"),
        (CHAT, "macro_f1", "macro_f1 needs labels, and task.kind chat has none; use auto or loss"),
        (CHAT, "accuracy", "accuracy needs labels, and task.kind chat has none; use auto or loss"),
    ],
)
def test_a_metric_that_cannot_count_is_refused_in_a_line(task: TaskConfig, name: str, line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        metric_of(task, name)
    assert str(refused.value) == f"evaluation.metric: {line}"


@pytest.mark.parametrize(
    ("task", "name", "names"),
    [
        (CLASSES, "auto", ["loss", "accuracy"]),
        (CLASSES, "loss", ["loss", "accuracy"]),
        (CLASSES, "macro_f1", ["loss", "accuracy", "macro_f1"]),
        (CHAT, "auto", ["loss"]),
    ],
)
def test_loss_the_tasks_own_and_the_chosen_one_are_measured(
    task: TaskConfig, name: str, names: list[str]
) -> None:
    assert [one.name for one in measured_metrics(task, name)] == names


def test_the_chosen_metric_counts_where_it_was_measured_else_the_tasks_own() -> None:
    everything = {"loss": 0.5, "accuracy": 0.8, "macro_f1": 0.7}
    assert main_metric(everything) is ACCURACY
    assert main_metric({"loss": 0.5}) is LOSS
    assert main_metric(everything, "loss") is LOSS
    assert main_metric(everything, "macro_f1") is MACRO_F1
    assert main_metric({"loss": 0.5, "accuracy": 0.8}, "macro_f1") is ACCURACY
    assert main_metric(everything, "of a later version") is ACCURACY


def test_the_registry_names_each_metric_as_it_names_itself() -> None:
    assert all(name == metric.name for name, metric in METRICS.items())


@pytest.mark.servers
def test_the_registry_loads_no_torch() -> None:
    script = "import sys, fedllm.tasks.metrics; print(sorted({'torch', 'scipy', 'peft'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""What counts among a round's metrics, and that a journal of before is written as before."""

import json

from fedllm.journal.facts import Quality, RoundFacts, TrainingFacts
from fedllm.journal.outcomes import Evaluated
from fedllm.report.page import render
from tests.report.test_hostile_page import CONFIG

MEASURED = ({"loss": 0.5, "accuracy": 0.9, "macro_f1": 0.6}, {"loss": 0.4, "accuracy": 0.7, "macro_f1": 0.8})


def training(metric: str | None) -> TrainingFacts:
    rounds = tuple(
        RoundFacts(number, "finished", quality=Quality(metrics, 50, metric=metric))
        for number, metrics in enumerate(MEASURED, start=1)
    )
    return TrainingFacts("run-1", CONFIG, "completed", "", 0.0, 1.0, None, None, rounds, None)


def test_the_best_round_is_so_by_the_metric_that_counts() -> None:
    best = {metric: training(metric).best for metric in (None, "loss", "macro_f1")}
    assert {metric: one.number if one else 0 for metric, one in best.items()} == {
        None: 1,
        "loss": 2,
        "macro_f1": 2,
    }


def test_the_report_is_about_the_metric_that_counts() -> None:
    page = render(training("macro_f1"), made=0.0)
    assert "Macro F1 by round" in page
    assert "Round 2 is the best: macro F1 80.0 %" in page
    assert "Accuracy by round" in render(training(None), made=0.0)


def test_an_outcome_names_its_metric_only_where_one_was_chosen() -> None:
    assert "metric" not in json.loads(Evaluated(metrics={"loss": 1.0}).model_dump_json())
    named = Evaluated(metrics={"loss": 1.0, "accuracy": 0.5}, metric="loss")
    assert Evaluated.model_validate_json(named.model_dump_json()) == named

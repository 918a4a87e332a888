"""A training's report in a real MLflow."""

import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from fedllm.errors import TrackingError
from fedllm.tracking import RoundRelease, Tracker
from tests.review.reviewed import SIGNER

Make = Callable[..., RoundRelease]
PAGE = "<!DOCTYPE html><title>what it came to</title>"


def test_the_report_is_an_artifact_of_the_trainings_run_and_its_address_leads_there(
    mlflow_uri: str, make_release: Make, tmp_path: Path
) -> None:
    tracker = Tracker(mlflow_uri, SIGNER)
    tracker.publish(make_release("reported"))
    tracker.finish("reported", "run-a", {"status": "failed", "stop_reason": "nobody came"})
    for page in ("an earlier one", PAGE):
        tracker.log_report("reported", "run-a", page)
    experiment = tracker.client.get_experiment_by_name("reported")
    runs = tracker.client.search_runs([experiment.experiment_id], "tags.`fed.kind` = 'training'")
    assert [run.info.status for run in runs] == ["FAILED"]  # the report changes nothing about how it ended
    run_id = runs[0].info.run_id
    kept = tracker.client.download_artifacts(run_id, "report.html", str(tmp_path))
    assert Path(kept).read_text() == PAGE
    path = f"/#/experiments/{experiment.experiment_id}/runs/{run_id}/artifacts/report.html"
    assert tracker.report_address("reported", "run-a") == mlflow_uri + path
    with urllib.request.urlopen(f"{mlflow_uri}/get-artifact?path=report.html&run_uuid={run_id}") as answer:  # noqa: S310
        assert answer.read().decode() == PAGE


def test_a_training_that_published_nothing_can_leave_a_report(mlflow_uri: str) -> None:
    tracker = Tracker(mlflow_uri, SIGNER)
    tracker.log_report("unpublished", "run-a", PAGE)
    assert "/runs/" in tracker.report_address("unpublished", "run-a")


def test_mlflow_being_away_is_told_in_one_line() -> None:
    with pytest.raises(TrackingError, match="does not answer"):
        Tracker("http://127.0.0.1:9", SIGNER).log_report("away", "run-a", PAGE)

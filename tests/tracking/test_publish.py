import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities.model_registry import ModelVersion

from fedllm.errors import ModelError, TrackingError
from fedllm.tracking import RoundRelease, Tracker
from fedllm.tracking.card import render
from fedllm.tracking.connection import PROBE_SECONDS
from fedllm.tracking.markdown import by_importance
from fedllm.tracking.registry import version_tags
from tests.review.reviewed import SIGNER

Make = Callable[..., RoundRelease]


@pytest.fixture
def tracker(mlflow_uri: str) -> Tracker:
    return Tracker(mlflow_uri, SIGNER)


def all_runs(tracker: Tracker, federation: str) -> list[Any]:
    experiment = tracker.client.get_experiment_by_name(federation)
    return list(tracker.client.search_runs([experiment.experiment_id]))


def all_versions(tracker: Tracker, federation: str) -> list[ModelVersion]:
    return list(tracker.client.search_model_versions(f"name = '{federation}'"))


def test_publishing_twice_gives_one_version_one_child_and_one_row_a_metric(
    tracker: Tracker, make_release: Make
) -> None:
    first = tracker.publish(make_release("twice"))
    assert tracker.publish(make_release("twice")) == first
    assert first.uri == "models:/twice/1"
    assert len(all_versions(tracker, "twice")) == 1
    runs = {run.data.tags["fed.kind"]: run for run in all_runs(tracker, "twice")}
    assert sorted(runs) == ["round", "training"]
    assert len(all_runs(tracker, "twice")) == 2
    history = tracker.client.get_metric_history(runs["training"].info.run_id, "accuracy")
    assert [(m.step, m.value) for m in history] == [(0, 0.8), (1, 0.875)]
    assert runs["round"].data.tags["mlflow.parentRunId"] == runs["training"].info.run_id
    assert runs["round"].info.run_id == first.run_id
    assert runs["round"].info.status == "FINISHED"
    assert runs["training"].info.status == "RUNNING"
    assert runs["training"].data.params["local.lr"] == "0.001"
    assert len(runs["round"].outputs.model_outputs) == 1


class Killed(BaseException):
    """What no `except Exception` stops: the process is gone."""


class KilledBefore(Tracker):
    """A coordinator that dies in the middle of publishing."""

    def __init__(self, uri: str, call: str) -> None:
        super().__init__(uri, SIGNER)
        setattr(self.client, call, self._die)

    def _die(self, *_: object, **__: object) -> None:
        raise Killed


@pytest.mark.parametrize(
    "call",
    [
        "log_dict",  # the child run exists, its table does not
        "create_registered_model",
        "log_model_artifacts",  # the logged model exists, empty
        "finalize_logged_model",
        "log_outputs",
        "create_model_version",
        "set_model_version_tag",  # the version exists, nobody has signed it
        "set_registered_model_alias",
        "set_terminated",
    ],
)
def test_killed_while_publishing_and_published_again_gives_one_of_each(
    mlflow_uri: str, tracker: Tracker, make_release: Make, call: str
) -> None:
    name = f"killed-{call.replace('_', '-')}"
    with pytest.raises(Killed):
        KilledBefore(mlflow_uri, call).publish(make_release(name))
    published = tracker.publish(make_release(name))
    assert [v.version for v in all_versions(tracker, name)] == ["1"]
    assert tracker.is_signed(name, "1")
    assert len(all_runs(tracker, name)) == 2
    experiment = tracker.client.get_experiment_by_name(name)
    models = tracker.client.search_logged_models([experiment.experiment_id])
    assert [model.status for model in models] == ["READY"]
    assert all_versions(tracker, name)[0].source == f"models:/{models[0].model_id}"
    assert tracker.client.get_model_version_by_alias(name, "challenger").version == "1"
    outputs = tracker.client.get_run(published.run_id).outputs.model_outputs
    assert [output.model_id for output in outputs] == [models[0].model_id]


def test_a_version_carries_every_tag_and_a_card(tracker: Tracker, make_release: Make) -> None:
    published = tracker.publish(
        make_release("tags", prefect_flow_run="flow-1", dvc_lock_sha256="d" * 64, champion={"accuracy": 0.86})
    )
    version = tracker.client.get_model_version("tags", published.version)
    other = ("eval_baseline.", "record.signed")
    assert {k: v for k, v in version.tags.items() if not k.startswith(other)} == {
        "fed.run": "run-a",
        "fed.round": "1",
        "fed.sites": "amazon,movies",
        "base.model": "tiny",
        "base.sha256": "b" * 64,
        "model.sha256": f"{1:064x}",
        "eval.loss": "0.4",
        "eval.accuracy": "0.875",
        "eval.accuracy/amazon": "0.9",
        "eval.accuracy/movies": "0.85",
        "dp.epsilon": "not configured",
        "prefect.flow_run": "flow-1",
        "data.dvc_lock_sha256": "d" * 64,
    }
    assert version.run_id == published.run_id
    assert "no DP configured" in version.description
    assert "| accuracy | 87.5 % | 80.0 % | 86.0 % |" in version.description


def test_the_sites_are_a_table_that_publishing_again_does_not_lengthen(
    tracker: Tracker, make_release: Make, tmp_path: Path
) -> None:
    published = tracker.publish(make_release("table"))
    tracker.publish(make_release("table"))
    path = tracker.client.download_artifacts(published.run_id, "sites.json", str(tmp_path))
    table = json.loads(Path(path).read_text())
    assert table["columns"] == ["site", "examples", "steps", "weight", "verdict"]
    assert table["data"] == [["amazon", 240, 15, 2985, "pass"], ["movies", 240, 15, 9000, "pass"]]
    tags = tracker.client.get_run(published.run_id).data.tags
    assert json.loads(tags["mlflow.loggedArtifacts"]) == [{"path": "sites.json", "type": "table"}]


def test_challenger_moves_to_a_better_round_and_stays_at_a_worse_one(
    tracker: Tracker, make_release: Make
) -> None:
    seen = []
    for number, accuracy in enumerate([0.80, 0.87, 0.85, 0.87], start=1):
        tracker.publish(make_release("better", number, metrics={"accuracy": accuracy, "loss": 1.0 / number}))
        seen.append(tracker.client.get_model_version_by_alias("better", "challenger").version)
    assert seen == ["1", "2", "2", "2"]
    best = tracker.best("better", "run-a")
    assert best is not None
    assert best.version == "2"


def test_challenger_is_of_the_training_that_published_last_and_no_earlier_version_of_it_is_read(
    tracker: Tracker, make_release: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run, number, accuracy in (("run-a", 1, 0.9), ("run-b", 2, 0.7), ("run-b", 3, 0.8)):
        tracker.publish(make_release("last", number, run=run, metrics={"accuracy": accuracy}))
    assert tracker.client.get_model_version_by_alias("last", "challenger").version == "3"
    monkeypatch.setattr(tracker, "_best", None)  # it would look through all versions
    for number, accuracy in ((4, 0.75), (5, 0.85)):
        tracker.publish(make_release("last", number, run="run-b", metrics={"accuracy": accuracy}))
    assert tracker.client.get_model_version_by_alias("last", "challenger").version == "5"


def test_the_metric_that_counts_is_a_tag_where_it_is_not_the_tasks_own(make_release: Make) -> None:
    plain, named = make_release("tagged"), make_release("tagged", metric="loss")
    assert version_tags(named) == version_tags(plain) | {"public.metric": "loss"}
    assert "metric" not in json.loads(plain.to_json())
    assert type(named).from_json(named.to_json()) == named


def test_the_best_version_is_so_by_the_metric_that_it_names(tracker: Tracker, make_release: Make) -> None:
    for number, metrics in ((1, {"loss": 0.4, "accuracy": 0.7}), (2, {"loss": 0.5, "accuracy": 0.9})):
        tracker.publish(make_release("by-loss", number, metrics=metrics, metric="loss"))
    best = tracker.best("by-loss", "run-a")
    assert best is not None
    assert best.version == "1"
    assert tracker.client.get_model_version_by_alias("by-loss", "challenger").version == "1"


def test_a_card_shows_the_metric_that_counts_first(make_release: Make) -> None:
    measured = {"loss": 0.4, "accuracy": 0.9, "macro_f1": 0.8, "macro_f1/x": 0.7, "accuracy/x": 0.6}
    assert by_importance(measured, "macro_f1") == ["macro_f1", "accuracy", "loss", "macro_f1/x", "accuracy/x"]
    card = render(make_release("first", metrics=measured, metric="macro_f1"), "models:/first/1")
    assert card.index("| macro\\_f1 | 80.0 % |") < card.index("| accuracy | 90.0 % |")


def test_without_accuracy_the_lowest_loss_is_best(tracker: Tracker, make_release: Make) -> None:
    for number, loss in enumerate([0.5, 0.3, 0.4], start=1):
        tracker.publish(make_release("lower", number, metrics={"loss": loss}))
    assert tracker.client.get_model_version_by_alias("lower", "challenger").version == "2"


def test_the_best_of_a_training_that_published_nothing_is_none(tracker: Tracker, make_release: Make) -> None:
    tracker.publish(make_release("one"))
    assert tracker.best("one", "another-run") is None
    assert tracker.best("no-such-federation", "run-a") is None


def test_champion_metrics_are_those_of_the_alias(tracker: Tracker, make_release: Make) -> None:
    assert tracker.champion_metrics("crowned") is None
    published = tracker.publish(make_release("crowned"))
    assert tracker.champion_metrics("crowned") is None
    tracker.client.set_registered_model_alias("crowned", "champion", published.version)
    metrics = tracker.champion_metrics("crowned")
    assert metrics is not None
    assert metrics["accuracy"] == 0.875
    assert metrics["accuracy/movies"] == 0.85


@pytest.mark.parametrize(
    ("status", "shown"), [("completed", "FINISHED"), ("failed", "FAILED"), ("cancelled", "KILLED")]
)
def test_finishing_says_how_a_training_ended(
    tracker: Tracker, make_release: Make, status: str, shown: str
) -> None:
    name = f"ends-{status}"
    tracker.publish(make_release(name))
    summary = {"status": status, "stop_reason": "round limit", "rounds": 1, "eval": {"accuracy": 0.875}}
    for _ in range(2):
        tracker.finish(name, "run-a", summary)
    parent = next(run for run in all_runs(tracker, name) if run.data.tags["fed.kind"] == "training")
    assert parent.info.status == shown
    assert parent.data.tags["fed.stop_reason"] == "round limit"
    assert parent.data.metrics["final.eval.accuracy"] == 0.875
    assert parent.data.metrics["final.rounds"] == 1


def test_a_round_queued_until_after_the_end_is_published_all_the_same(
    tracker: Tracker, make_release: Make
) -> None:
    tracker.finish("late", "run-a", {"status": "failed"})
    published = tracker.publish(make_release("late"))
    assert published.version == "1"
    parent = next(run for run in all_runs(tracker, "late") if run.data.tags["fed.kind"] == "training")
    assert parent.info.status == "FAILED"


def test_it_works_from_a_thread_and_leaves_mlflows_globals_alone(
    tracker: Tracker, make_release: Make
) -> None:
    import mlflow

    before = mlflow.get_tracking_uri()
    published = []
    thread = threading.Thread(target=lambda: published.append(tracker.publish(make_release("threaded"))))
    thread.start()
    thread.join()
    assert [p.version for p in published] == ["1"]
    assert mlflow.get_tracking_uri() == before
    assert mlflow.active_run() is None


def test_a_release_survives_the_journal(tracker: Tracker, make_release: Make) -> None:
    release = make_release("journal", champion={"accuracy": 0.8})
    again = RoundRelease.from_json(release.to_json())
    assert again == release
    assert json.loads(release.to_json())["sites"] == ["amazon", "movies"]
    assert tracker.publish(again) == tracker.publish(release)
    with pytest.raises(TrackingError, match="cannot be read"):
        RoundRelease.from_json('{"sites": []}')


def test_an_adapter_folder_without_weights_is_refused_before_anything_is_recorded(
    tracker: Tracker, make_release: Make, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"holds no adapter_config\.json"):
        tracker.publish(make_release("nothing", adapter_folder=str(tmp_path)))
    assert tracker.client.get_experiment_by_name("nothing") is None


@pytest.fixture
def deaf_server() -> Iterator[str]:
    """A port that takes connections and never answers."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_that_is_down_is_noticed_within_seconds(make_release: Make, deaf_server: str) -> None:
    for uri in ("http://127.0.0.1:9", deaf_server):
        started = time.monotonic()
        with pytest.raises(TrackingError, match="does not answer"):
            Tracker(uri, SIGNER).publish(make_release("down"))
        assert time.monotonic() - started < PROBE_SECONDS + 6


def test_a_card_is_no_longer_than_every_database_takes(make_release: Make) -> None:
    rows = [
        {"site": f"site-{number}", "weight": 1, "verdict": "<<*`|_" * 40, "seconds": 1.5, "bytes": 10**6}
        for number in range(30)
    ]
    labels = {f"accuracy/{'&' * 40}{number}": 0.5 for number in range(60)}
    card = render(make_release("long", site_rows=rows, metrics={"accuracy": 0.5} | labels), "models:/long/1")
    assert len(card) <= 5000
    assert card.endswith("… the rest is in the artifacts of the round's run.\n")


def test_a_list_of_sites_that_is_too_long_for_a_tag_ends_after_a_whole_name(make_release: Make) -> None:
    names = tuple(f"hospital-{number:05}" for number in range(900))
    told = make_release("many", sites=names).site_list
    assert len(told) <= 5000
    assert told.split(",") == list(names[: told.count(",") + 1])

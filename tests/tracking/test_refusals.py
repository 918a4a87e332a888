"""MLflow away, MLflow refusing: the first ends a queue for now, the second costs a release its own turn."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedllm.coordinator.release import publish_waiting, released
from fedllm.errors import RecordRefusedError, TrackingError
from fedllm.journal.journal import Journal
from fedllm.journal.release_queue import queue_release, waiting_releases
from fedllm.journal.runs import begin_run
from fedllm.tracking import RoundRelease, Tracker
from tests.review.reviewed import SIGNER

Make = Callable[..., RoundRelease]
TOO_LONG = {"data_lock": "x" * 600_000}  # MLflow's model version tags end long before


@pytest.fixture
def training(mlflow_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401
    """As much of a training as the release queue looks at."""
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path))
    journal = Journal("queue")
    mailbox = SimpleNamespace(me=SIGNER)
    yield SimpleNamespace(journal=journal, run="run-a", tracking_uri=mlflow_uri, mailbox=mailbox)
    journal.close()


def queue(training: Any, make_release: Make, number: int, **changes: Any) -> None:  # noqa: ANN401
    release = make_release("queue", number, **changes)
    queue_release(training.journal, training.run, number, release.to_json())


def test_content_that_mlflow_does_not_take_is_a_refusal(mlflow_uri: str, make_release: Make) -> None:
    with pytest.raises(RecordRefusedError, match="refused the request"):
        Tracker(mlflow_uri, SIGNER).publish(make_release("refused", privacy=TOO_LONG))


def test_a_server_that_is_away_refuses_nothing(make_release: Make) -> None:
    with pytest.raises(TrackingError, match="does not answer") as caught:
        Tracker("http://127.0.0.1:9", SIGNER).publish(make_release("away"))
    assert not isinstance(caught.value, RecordRefusedError)


def test_a_refused_release_is_told_once_and_kept_and_does_not_hold_up_the_next(
    training: Any,  # noqa: ANN401
    make_release: Make,
    caplog: pytest.LogCaptureFixture,
) -> None:
    begin_run(training.journal, "run-a", "{}")
    queue(training, make_release, 1, privacy=TOO_LONG)
    queue(training, make_release, 2)
    with caplog.at_level(logging.ERROR, logger="fedllm.coordinator.release"):
        publish_waiting(training)
        publish_waiting(training)
    assert [r.message.partition(":")[0] for r in caplog.records] == [
        "round 1 of run-a is kept, but cannot be published"
    ]
    assert released(training, 2).version == "1"
    first = released(training, 1)
    assert first.queued
    assert first.refused is not None
    assert [number for _, number, _ in waiting_releases(training.journal)] == [1]


def test_a_refused_release_is_published_once_it_is_possible(
    training: Any,  # noqa: ANN401
    make_release: Make,
    bare_adapter: Path,
    tmp_path: Path,
) -> None:
    begin_run(training.journal, "run-b", "{}")
    training.run = "run-b"
    folder = tmp_path / "not-yet"
    folder.mkdir()
    queue(training, make_release, 1, run="run-b", adapter_folder=str(folder))
    publish_waiting(training)
    assert released(training, 1).refused is not None
    for file in bare_adapter.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    publish_waiting(training)
    now = released(training, 1)
    assert (now.queued, now.refused) == (False, None)
    assert now.version is not None


def test_a_queue_ends_where_mlflow_is_away(training: Any, make_release: Make) -> None:  # noqa: ANN401
    begin_run(training.journal, "run-a", "{}")
    training.tracking_uri = "http://127.0.0.1:9"
    queue(training, make_release, 1)
    publish_waiting(training)
    first = released(training, 1)
    assert first.queued
    assert first.refused is None

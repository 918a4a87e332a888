"""A server that answers beside an artifact store that does not."""

import threading
import time

import pytest

from fedllm.errors import TrackingError
from fedllm.tracking import connection
from fedllm.tracking.connection import stored


def test_an_artifact_store_that_does_not_answer_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "STORE_SECONDS", 0.2)
    begun, never = time.monotonic(), threading.Event()
    with pytest.raises(TrackingError, match="its artifact store did not within 0 s: start the store"):
        stored("http://mlflow", never.wait)
    assert time.monotonic() - begun < 5
    never.set()


def test_an_answer_and_an_error_are_passed_on() -> None:
    assert stored("http://mlflow", lambda: 7) == 7
    with pytest.raises(TimeoutError, match="of its own"):
        stored("http://mlflow", _late)


def _late() -> None:
    raise TimeoutError("of its own")

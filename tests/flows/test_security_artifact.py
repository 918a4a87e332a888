"""What Prefect shows of refusals, and what it costs when it shows nothing."""

import logging
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from fedllm.journal.journal import Journal
from flows import artifacts, events
from flows.tasks import best_effort

if TYPE_CHECKING:
    from fedllm.coordinator.training import Training


class Shown:
    """Takes down what is sent to Prefect."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.tables: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        patch.setattr(artifacts, "create_table_artifact", lambda **told: self.tables.append(told))
        patch.setattr(events, "emit_event", lambda *_, payload, **_rest: self.events.append(payload))


def training(journal: Journal) -> "Training":
    found = SimpleNamespace(config=SimpleNamespace(name="trial"), run="run-1", journal=journal)
    return cast("Training", found)


def test_refusals_of_this_run_are_shown_and_this_rounds_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Shown(monkeypatch)
    with closing(Journal("trial", f"sqlite:///{tmp_path / 'journal.db'}")) as journal:
        journal.security.record("refused", "mill", "a forged signature", "run-1", 1)
        journal.security.record("quota", "clinic", "too many objects", "run-1", 2)
        journal.security.record("replay", "mill", "another run's", "run-0", 2)
        artifacts.show_security(training(journal), 2)
    (table,) = shown.tables
    assert table["key"] == "trial-security"
    assert [row["reason"] for row in table["table"]] == ["a forged signature", "too many objects"]
    (event,) = shown.events
    assert (event["run"], event["round"]) == ("run-1", 2)
    assert [row["party"] for row in event["events"]] == ["clinic"]


def test_a_run_without_refusals_shows_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Shown(monkeypatch)
    with closing(Journal("trial", f"sqlite:///{tmp_path / 'journal.db'}")) as journal:
        artifacts.show_security(training(journal), 1)
    assert shown.tables == shown.events == []


def test_a_prefect_that_is_away_costs_the_picture_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("flows.tasks.get_run_logger", lambda: logging.getLogger("test"))

    def away() -> None:
        raise OSError("nobody answers")

    best_effort(away)
    assert "nobody answers" in caplog.text

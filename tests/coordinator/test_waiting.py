"""Dispatch says whom it waits for and why, and says it again only when it changes."""

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fedllm.config import FederationConfig
from fedllm.coordinator.cards import FRESH
from fedllm.coordinator.live_sites import live_sites
from fedllm.coordinator.training import Training
from fedllm.errors import RoundError
from tests.coordinator.played import PlayedSite

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def config(config: FederationConfig) -> FederationConfig:
    rounds = config.rounds.model_copy(update={"join": 1.0, "min_sites": 3, "deadline": 3.0})
    return config.model_copy(update={"rounds": rounds})


def said(training: Training) -> list[str]:
    """What is said until it gives up."""
    lines: list[str] = []
    with pytest.raises(RoundError):
        live_sites(training, 1, lines.append)
    return lines


def test_each_reason_has_its_words(training: Training, sites: dict[str, PlayedSite]) -> None:
    folder = Path(training.config.store.url.removeprefix("file://"))
    sites["amazon"].show_card(state="stopped")
    sites["movies"].show_card()
    at = time.time() - FRESH - 3600
    os.utime(folder / sites["movies"].mailbox.layout.card("movies"), (at, at))
    stopped, seen = (time.strftime("%H:%M", time.localtime(when)) for when in (time.time(), at))
    (line,) = said(training)
    assert line.startswith(f"waiting for 3 of 3, 1 s at most: amazon was stopped at {stopped[:3]}")
    assert line.endswith(f"; movies has not been seen since {seen}; nyt has never been seen")


def test_a_site_that_prepares_is_waited_for_beyond_join_and_then_takes_part(
    training: Training, sites: dict[str, PlayedSite]
) -> None:
    sites["amazon"].show_card()
    sites["movies"].show_card()
    sites["nyt"].show_card(state="preparing")
    ready = threading.Timer(2.0, sites["nyt"].show_card)
    ready.start()
    lines: list[str] = []
    assert set(live_sites(training, 1, lines.append)) == {"amazon", "movies", "nyt"}
    assert lines == ["waiting for 1 of 3, 3 s at most: nyt is preparing its base model"]


def test_one_that_prepares_for_ever_is_waited_for_no_longer_than_a_round(
    training: Training, sites: dict[str, PlayedSite]
) -> None:
    sites["amazon"].show_card()
    sites["movies"].show_card()
    sites["nyt"].show_card(state="preparing")
    begun = time.monotonic()
    with pytest.raises(RoundError, match="when the agents of nyt have prepared"):
        live_sites(training, 1, lambda _line: None)
    assert 3.0 <= time.monotonic() - begun < 30.0


def test_a_change_is_said_and_nothing_twice(training: Training, sites: dict[str, PlayedSite]) -> None:
    sites["amazon"].show_card()
    sites["movies"].show_card(state="preparing")
    changes: list[Callable[[], None]] = [sites["movies"].show_card, sites["nyt"].show_card]
    lines: list[str] = []

    def heard(line: str) -> None:
        lines.append(line)
        changes.pop(0)()

    assert len(live_sites(training, 1, heard)) == 3
    assert lines == [
        "waiting for 2 of 3, 3 s at most: movies is preparing its base model; nyt has never been seen",
        "waiting for 1 of 3, 1 s at most: nyt has never been seen",
    ]

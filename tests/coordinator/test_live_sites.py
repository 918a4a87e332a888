"""Whom a round can be planned with, and what is said when they are too few."""

import logging

import pytest

from fedllm.config import FederationConfig
from fedllm.coordinator.dispatch import dispatch, read_plan
from fedllm.coordinator.training import Training
from fedllm.errors import RoundError
from tests.coordinator.played import PlayedSite


@pytest.fixture
def config(config: FederationConfig) -> FederationConfig:
    rounds = config.rounds.model_copy(update={"join": 1.0, "min_sites": 3})
    by_count = config.aggregation.model_copy(update={"weighting": "examples"})
    return config.model_copy(update={"rounds": rounds, "aggregation": by_count})


def test_who_is_away_and_who_told_no_count_are_told_apart_and_once(
    training: Training, sites: dict[str, PlayedSite], caplog: pytest.LogCaptureFixture
) -> None:
    sites["amazon"].show_card()
    sites["movies"].show_card(examples=None)
    with caplog.at_level(logging.WARNING), pytest.raises(RoundError) as told:
        dispatch(training, 1)
    assert str(told.value) == (
        "1 of 3 sites are live, rounds.min_sites is 3: start the agents of nyt, and set "
        "aggregation.weighting to equal, since movies published no example count (tell_count in site.yaml)"
    )
    assert caplog.messages == ["movies has not published its example count, so it has no weight: left out"]


def test_what_a_site_claims_is_bounded_by_its_share(training: Training, sites: dict[str, PlayedSite]) -> None:
    sites["amazon"].show_card(examples=100)
    sites["movies"].show_card(examples=100)
    sites["nyt"].show_card(examples=10**9)
    dispatch(training, 1)
    assert read_plan(training, 1).weights == {"amazon": 100, "movies": 100, "nyt": 200}

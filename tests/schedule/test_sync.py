"""Schedule `sync`: whom a plan asks, when a version is due, and when a site's plan is over."""

from types import SimpleNamespace
from typing import Any

import pytest

from fedllm.config.federation import RoundsConfig
from fedllm.journal.outcomes import SiteOutcome
from fedllm.schedule.schedules import SCHEDULES
from fedllm.schedule.sync import Sync

PLAN: Any = SimpleNamespace(run="run-1", round=2)


def test_every_schedule_that_a_configuration_takes_is_there_under_its_own_name() -> None:
    assert {name: schedule.name for name, schedule in SCHEDULES.items()} == {RoundsConfig().mode: "sync"}


@pytest.mark.parametrize(
    ("head", "over"),
    [
        ({"state": "training", "run": "run-1", "round": 2}, False),
        ({"state": "training", "run": "run-1", "round": 3}, True),
        ({"state": "training", "run": "run-2", "round": 2}, True),
        ({"state": "idle", "run": "run-1", "round": 2}, True),
    ],
)
def test_a_plan_is_over_when_the_head_shows_another_round_or_none(
    head: dict[str, Any], *, over: bool
) -> None:
    shown: Any = SimpleNamespace(**head)
    assert Sync().is_over(PLAN, shown) is over


def test_a_version_is_due_when_every_site_that_was_asked_has_an_outcome() -> None:
    arrived = [SiteOutcome(site="east", status="updated"), SiteOutcome(site="west", status="silent")]
    assert [Sync().is_due(("east", "west"), arrived[:count]) for count in range(3)] == [False, False, True]

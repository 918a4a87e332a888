"""The kinds of security events: one list, which records, page, metrics and alerts share."""

import re
from pathlib import Path
from typing import get_args, get_type_hints

from fedllm.agent.policy import Decision
from fedllm.coordinator.revoke import REVOKED
from fedllm.errors import RefusedError
from fedllm.secure.events import KINDS

ROOT = Path(__file__).parents[2]


def kinds_of(error: type[RefusedError]) -> set[str]:
    return {error.kind}.union(*(kinds_of(one) for one in error.__subclasses__()))


def test_every_kind_that_anything_is_recorded_as_is_listed_once() -> None:
    declined = set(get_args(get_type_hints(Decision)["event"])) - {""}
    assert kinds_of(RefusedError) | declined | {REVOKED} == set(KINDS)
    assert len(set(KINDS)) == len(KINDS)


def test_the_page_about_events_tells_of_every_kind_in_the_same_order() -> None:
    page = (ROOT / "docs" / "operations.md").read_text().partition("\n## Security events")[2]
    table = page.partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `([a-z]+)` \|", table, re.MULTILINE)) == KINDS


def test_alerts_leave_out_kinds_that_there_are() -> None:
    alerts = (ROOT / "infra" / "prometheus" / "alerts.yml").read_text()
    [left_out] = re.findall(r'fedllm_security_events_total\{kind!~"([^"]+)"\}', alerts)
    assert set(left_out.split("|")) == {"policy", "revoked"} <= set(KINDS)

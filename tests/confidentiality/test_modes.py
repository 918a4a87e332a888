"""The seam: a mode with a second phase is played by declaring it, and the docs' table is the code's."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedllm.confidentiality.mode import Mode
from fedllm.confidentiality.modes import MODES, check_mode, mode_table
from fedllm.config import federation as configuration
from fedllm.config import load_federation
from fedllm.coordinator.steps import DP_AUDIT
from fedllm.coordinator.training import Training
from fedllm.errors import ConfigError, RoundError
from fedllm.journal.outcomes import Audited, SiteOutcome
from tests.around_steps import around
from tests.confidentiality.two_phases import AGREE, TWO_PHASES, SilentSite
from tests.test_simulation import SITES, federation, simulated

__all__ = ("federation",)  # a fixture

ROOT = Path(__file__).parents[2]


def offered(patch: pytest.MonkeyPatch, mode: Mode) -> None:
    """Let federations name a mode."""
    patch.setitem(MODES, mode.name, mode)
    patch.setattr(configuration, "MODES", [*configuration.MODES, mode.name])


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[SiteOutcome | None]]:
    """What the coordinator has on record of the second phase when it audits a round."""
    seen: list[SiteOutcome | None] = []

    def look(training: Training, _audited: Audited) -> None:
        seen.extend(
            training.journal.outcome(training.run, 1, f"{AGREE} {site}", SiteOutcome) for site in SITES
        )

    around(monkeypatch, DP_AUDIT, after=look)
    return seen


def test_a_second_phase_is_played_with_every_site_and_changes_no_model(
    federation: Path, monkeypatch: pytest.MonkeyPatch, replies: list[SiteOutcome | None]
) -> None:
    plain = simulated(federation, "rounds.max=1")
    replies.clear()
    offered(monkeypatch, TWO_PHASES)
    two = simulated(federation, "rounds.max=1", f"confidentiality={TWO_PHASES.name}")
    assert two.model["sha256"] == plain.model["sha256"]
    assert [done and (done.status, done.reply) for done in replies] == [("updated", "yes")] * len(SITES)


def test_a_site_that_refuses_the_query_is_silent_and_costs_the_deadline_alone(
    federation: Path, monkeypatch: pytest.MonkeyPatch, replies: list[SiteOutcome | None]
) -> None:
    offered(monkeypatch, replace(TWO_PHASES, site=SilentSite()))
    overrides = ("rounds.max=1", "rounds.deadline=12s", f"confidentiality={TWO_PHASES.name}")
    two = simulated(federation, *overrides)
    assert [done and (done.status, done.reply) for done in replies] == [("silent", None)] * len(SITES)
    assert {name: site["rounds"] for name, site in two.sites.items()} == dict.fromkeys(SITES, 1)


def test_an_object_that_the_mode_does_not_declare_is_above_the_quota(
    federation: Path, monkeypatch: pytest.MonkeyPatch, replies: list[SiteOutcome | None]
) -> None:
    offered(
        monkeypatch,
        replace(TWO_PHASES, phases=(*TWO_PHASES.phases[:1], replace(TWO_PHASES.phases[1], objects=()))),
    )
    belong = "only answer.json, update.json, update.bin belong there"
    with pytest.raises(RoundError, match=belong):
        simulated(federation, "rounds.max=1", f"confidentiality={TWO_PHASES.name}")
    assert not replies


def test_settings_that_a_mode_does_not_go_with_are_refused_in_one_line(
    federation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def conflict(config: Any) -> str | None:  # noqa: ANN401
        return "it needs three rounds" if config.rounds.max < 3 else None

    offered(monkeypatch, replace(TWO_PHASES, conflict=conflict))
    config = load_federation(federation, [f"confidentiality={TWO_PHASES.name}"])
    with pytest.raises(ConfigError, match="confidentiality two-phases: it needs three rounds"):
        check_mode(config)


def test_a_mode_that_is_unknown_is_refused_with_those_that_are_there(federation: Path) -> None:
    with pytest.raises(ConfigError, match="'secagg' is no mode of confidentiality: use plain"):
        load_federation(federation, ["confidentiality=secagg"])


def test_the_names_that_a_configuration_takes_are_those_of_the_modes() -> None:
    assert set(configuration.MODES) == set(MODES)


def test_the_table_of_the_docs_is_the_codes() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    assert text.partition("<!-- modes -->\n")[2].partition("\n<!-- /modes -->")[0] == mode_table()

"""Whose data are accounted for twice is told: under another name, or in another home's ledger."""

import logging
from contextlib import closing
from pathlib import Path

import pytest

from fedllm.agent.agent import Agent
from fedllm.agent.join import Membership
from fedllm.config import PolicyConfig, SiteConfig
from fedllm.privacy.same_data import note_use, other_uses
from tests.agent.played import EndlessTrainer


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "fedllm"))


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    return SiteConfig(name="ward", data=tmp_path / "ward.jsonl", dataset_id="ward-7")


def test_one_ledger_and_one_name_are_as_it_should_be(site: SiteConfig, tmp_path: Path) -> None:
    for home in ("first", "second"):
        shared = site.model_copy(update={"ledger": tmp_path / "ledger.db"})
        note_use(shared, tmp_path / home)
        assert list(other_uses(shared, tmp_path / home)) == []


def test_another_name_over_the_same_data_is_told(site: SiteConfig, tmp_path: Path) -> None:
    note_use(site, tmp_path / "home")
    renamed = site.model_copy(update={"dataset_id": "ward-8"})
    (told,) = other_uses(renamed, tmp_path / "home")
    assert f"also accounted for as ward-7 in {tmp_path / 'home' / 'ledger.db'}, and neither" in told


def test_a_second_home_over_the_same_data_is_told_whatever_the_path_to_them(
    site: SiteConfig, tmp_path: Path
) -> None:
    note_use(site, tmp_path / "first")
    (tmp_path / "link").symlink_to(tmp_path)
    second = site.model_copy(update={"data": tmp_path / "link" / "ward.jsonl"})
    (told,) = other_uses(second, tmp_path / "second")
    assert str(tmp_path / "first" / "ledger.db") in told
    Path(told.split("or remove ")[1].split(" if ")[0]).unlink()  # as the line says for other records
    assert list(other_uses(second, tmp_path / "second")) == []


def test_an_agent_with_a_budget_says_so_in_its_log(
    member: Membership, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("ward-7", "ward-8"):
        update = {"dataset_id": name, "policy": PolicyConfig(max_epsilon=3.0)}
        renamed = Membership(
            member.site.model_copy(update=update), member.home, member.identity, member.invitation
        )
        with caplog.at_level(logging.WARNING), closing(Agent(renamed, EndlessTrainer())):
            assert ("accounted for as ward-7" in caplog.text) == (name == "ward-8")

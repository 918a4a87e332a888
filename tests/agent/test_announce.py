"""When a site's card says that there are new data: by itself where it tells its count, else by a person."""

import json
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedllm.agent.agent import Agent
from fedllm.agent.join import Membership
from fedllm.agent.memory import Memory
from fedllm.cli.main import app
from fedllm.data.records import read_records, write_records
from fedllm.protocol.messages import Card
from tests.agent.played import SITE, Coordinator, CountingTrainer


def card(agent: Agent, coordinator: Coordinator) -> Card:
    """The card that the agent shows now."""
    agent._card_due = 0.0
    agent.tick()
    key = coordinator.mailbox.layout.card(SITE)
    return coordinator.mailbox.read(key, Card, agent.member.identity.public).message


def more(member: Membership) -> None:
    records = read_records(member.site.data)
    write_records(member.site.data, [*records, {"text": f"new {len(records)}", "label": "positive"}])


def with_count(member: Membership, *, told: bool) -> Membership:
    site = member.site.model_copy(update={"tell_count": told})
    return Membership(site, member.home, member.identity, member.invitation)


def test_a_data_file_that_changed_is_announced_once_when_it_has_settled(
    member: Membership, coordinator: Coordinator, trainer: CountingTrainer
) -> None:
    with closing(Agent(with_count(member, told=True), trainer)) as agent:
        assert [card(agent, coordinator).announced for _ in range(3)] == [0, 0, 0]
        more(member)
        told = [card(agent, coordinator) for _ in range(3)]
    assert [one.announced for one in told] == [0, 1, 1]  # the first look finds it fresh, and waits
    assert [one.examples for one in told] == [8, 9, 9]


def test_a_file_that_was_only_touched_is_not_announced(
    member: Membership, coordinator: Coordinator, trainer: CountingTrainer
) -> None:
    with closing(Agent(with_count(member, told=True), trainer)) as agent:
        for _ in range(2):
            card(agent, coordinator)
        member.site.data.touch()
        assert [card(agent, coordinator).announced for _ in range(3)] == [0, 0, 0]


def test_what_changed_while_the_agent_was_away_is_announced_when_it_is_back(
    member: Membership, coordinator: Coordinator, trainer: CountingTrainer
) -> None:
    member = with_count(member, told=True)
    with closing(Agent(member, trainer)) as agent:
        for _ in range(2):
            card(agent, coordinator)
    more(member)
    for expected in (1, 1):
        with closing(Agent(member, trainer)) as agent:
            assert [card(agent, coordinator).announced for _ in range(3)][-1] == expected


def test_a_site_that_keeps_its_count_to_itself_announces_nothing_by_itself(
    member: Membership, coordinator: Coordinator, trainer: CountingTrainer
) -> None:
    with closing(Agent(with_count(member, told=False), trainer)) as agent:
        card(agent, coordinator)
        more(member)
        told = [card(agent, coordinator) for _ in range(3)]
    assert {(one.announced, one.examples) for one in told} == {(0, None)}


def test_a_file_that_cannot_be_read_is_not_announced_until_it_can(
    member: Membership, coordinator: Coordinator, trainer: CountingTrainer
) -> None:
    with closing(Agent(with_count(member, told=True), trainer)) as agent:
        for _ in range(2):
            card(agent, coordinator)
        member.site.data.write_text("{no record\n")
        assert {card(agent, coordinator).announced for _ in range(3)} == {0}
        write_records(member.site.data, [{"text": "one", "label": "positive"}])
        assert [card(agent, coordinator).announced for _ in range(3)] == [0, 1, 1]


@pytest.mark.parametrize("told", [True, False])
def test_a_person_announces_and_the_running_agents_next_card_says_so(
    member: Membership, coordinator: Coordinator, trainer: CountingTrainer, told: bool
) -> None:
    with closing(Agent(with_count(member, told=told), trainer)) as agent:
        assert card(agent, coordinator).announced == 0
        done = CliRunner().invoke(app, ["site", "announce", "--home", str(member.home), "--json"])
        assert json.loads(done.stdout) == {"schema": "fedllm.site-announce/1", "site": SITE, "announced": 1}
        assert card(agent, coordinator).announced == 1


def test_a_folder_without_a_site_cannot_announce(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["site", "announce", "--home", str(tmp_path)])
    assert done.exit_code != 0
    assert not (tmp_path / "memory.db").exists()


def test_the_number_never_falls(tmp_path: Path) -> None:
    from fedllm.agent.announce import announce

    with closing(Memory(tmp_path / "memory.db")) as memory:
        assert [announce(memory) for _ in range(3)] == [1, 2, 3]
    with closing(Memory(tmp_path / "memory.db")) as memory:
        assert announce(memory) == 4

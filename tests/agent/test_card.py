"""A site's card while its agent gets ready: preparing, idle, stopped, with numbers that only rise."""

import threading
from contextlib import closing, suppress

import pytest

from fedllm.agent import take_part as life
from fedllm.agent.agent import Agent, sole_agent
from fedllm.agent.card import preparing
from fedllm.agent.join import Membership
from fedllm.errors import IdentityError, ModelError, ObjectNotFoundError
from fedllm.exchange.mailbox import Mailbox
from fedllm.protocol.messages import Card
from tests.agent.played import Coordinator, CountingTrainer


def card(member: Membership, coordinator: Coordinator) -> Card:
    mailbox = Mailbox(member.connect(), member.layout, coordinator.me)
    return mailbox.read(member.layout.card(member.site.name), Card, member.identity.public).message


def test_it_says_that_it_prepares_and_then_that_it_is_ready(
    member: Membership, coordinator: Coordinator, trainer: CountingTrainer
) -> None:
    seen = threading.Event()
    store = member.connect()
    with preparing(member):
        while not seen.wait(0.05):
            with suppress(ObjectNotFoundError):
                store.stat(member.layout.card(member.site.name))
                seen.set()
        first = card(member, coordinator)
        assert (first.state, first.base_sha256, first.examples) == ("preparing", None, None)
    with closing(Agent(member, trainer)) as agent:
        agent.tick()
        second = card(member, coordinator)
    assert (second.state, second.base_sha256 is None) == ("idle", False)
    assert card(member, coordinator).state == "stopped"
    assert first.counter < second.counter < card(member, coordinator).counter


def test_a_preparation_that_fails_leaves_nobody_waiting(member: Membership, coordinator: Coordinator) -> None:
    with pytest.raises(ModelError), preparing(member):
        raise ModelError("the base model cannot be fetched")
    assert card(member, coordinator).state == "stopped"


def test_a_second_agent_on_one_home_shows_no_card(
    member: Membership, coordinator: Coordinator, trainer: CountingTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "accept_invitation", lambda *_, **__: member)
    monkeypatch.setattr(life.signal, "signal", lambda *_: None)
    monkeypatch.setattr(life, "log_to", lambda _path: None)
    with closing(Agent(member, trainer)) as agent:
        agent.tick()
        before = card(member, coordinator)
        with pytest.raises(IdentityError, match="runs already"):
            life.take_part(member.home / "any.invitation", member.home)
        assert card(member, coordinator) == before


def test_the_lock_is_free_when_a_preparation_failed(
    member: Membership, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(_name: str) -> None:
        raise ModelError("it is not there")

    monkeypatch.setattr(life, "accept_invitation", lambda *_, **__: member)
    monkeypatch.setattr(life.signal, "signal", lambda *_: None)
    monkeypatch.setattr(life, "log_to", lambda _path: None)
    monkeypatch.setattr(life, "resolve_base", absent)
    with pytest.raises(ModelError):
        life.take_part(member.home / "any.invitation", member.home)
    sole_agent(member.home).release()

"""The watch over the sites: what it notices on their cards, and that nothing is told twice."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fedllm.config import FederationConfig
from fedllm.coordinator.members import add_site, coordinator_identity
from fedllm.coordinator.revoke import revoke_site
from fedllm.coordinator.site_watch import (
    NEW_DATA,
    SILENT,
    SITE_BACK,
    SITE_NEW_DATA,
    SITE_SILENT,
    Attention,
    SiteState,
    forget_events,
    look_at_sites,
    untold_events,
)
from fedllm.exchange.directory_store import DirectoryStore
from fedllm.exchange.mailbox import Mailbox
from fedllm.journal.journal import Journal
from fedllm.journal.runs import begin_run, end_run
from fedllm.journal.tables import CardRow, SiteSeenRow
from fedllm.protocol.layout import Layout
from fedllm.secure.identity import create_identity
from tests.coordinator.played import PlayedSite

Look = Callable[..., list[tuple[str, str | None]]]
Age = Callable[[PlayedSite, float], None]


@pytest.fixture
def journal(config: FederationConfig) -> Iterator[Journal]:
    with closing(Journal(config.name)) as opened:
        yield opened


@pytest.fixture
def mailbox(config: FederationConfig, sites: dict[str, PlayedSite], tmp_path: Path) -> Mailbox:
    assert sites
    return Mailbox(DirectoryStore(tmp_path / "store"), Layout(config.name), coordinator_identity(config.name))


@pytest.fixture
def look(config: FederationConfig, journal: Journal, mailbox: Mailbox) -> Look:
    """Look once, and take the events away as Prefect does."""

    def once(attention: Attention | None = None) -> list[tuple[str, str | None]]:
        look_at_sites(config, journal, mailbox, attention or Attention())
        events = untold_events(journal)
        forget_events(journal, events)
        return [(event.name, event.site) for event in events]

    return once


@pytest.fixture
def age(journal: Journal, tmp_path: Path) -> Age:
    """Makes what was heard of a site older by so many seconds, as its silence does."""

    def by(site: PlayedSite, seconds: float) -> None:
        with journal.write() as session:
            row = session.get_one(SiteSeenRow, (journal.federation, site.name))
            row.heard -= seconds
            heard = row.heard
        card = tmp_path / "store" / site.mailbox.layout.card(site.name)
        if card.exists():
            os.utime(card, (heard, heard))

    return by


def states(config: FederationConfig, journal: Journal, mailbox: Mailbox) -> dict[str, SiteState]:
    return {site.site: site for site in look_at_sites(config, journal, mailbox, Attention())}


def test_a_site_that_falls_silent_and_one_that_is_back_are_told_once_each(
    sites: dict[str, PlayedSite], look: Look, age: Age
) -> None:
    for site in sites.values():
        site.show_card()
    assert look() == []
    age(sites["nyt"], SILENT / 3)
    assert look() == []
    age(sites["nyt"], SILENT)
    for again in ([(SITE_SILENT, "nyt")], []):
        for name in ("amazon", "movies"):
            sites[name].show_card()
        assert look() == again
    for again in ([(SITE_BACK, "nyt")], []):
        for site in sites.values():
            site.show_card()
        assert look() == again


def test_a_site_that_was_never_heard_of_is_silent_after_as_long_as_any_other(
    sites: dict[str, PlayedSite], look: Look, age: Age
) -> None:
    for name in ("amazon", "movies"):
        sites[name].show_card()
    assert look() == []
    age(sites["nyt"], SILENT / 3)
    assert look() == []
    age(sites["nyt"], SILENT)
    assert look() == [(SITE_SILENT, "nyt")]


def test_a_goodbye_is_told_with_the_silence(
    config: FederationConfig, sites: dict[str, PlayedSite], journal: Journal, mailbox: Mailbox
) -> None:
    for site in sites.values():
        site.show_card(state="stopped" if site.name == "nyt" else "idle")
    look_at_sites(config, journal, mailbox, Attention())
    time.sleep(0.05)
    look_at_sites(config, journal, mailbox, Attention(silent=0.01))
    told = {event.site: event.payload["goodbye"] for event in untold_events(journal)}
    assert told == {"amazon": False, "movies": False, "nyt": True}


def test_enough_different_sites_with_new_data_ask_for_one_round(
    sites: dict[str, PlayedSite], look: Look
) -> None:
    for site in sites.values():
        site.show_card()
    assert look() == []
    sites["amazon"].show_card(announced=1)
    assert look() == [(SITE_NEW_DATA, "amazon")]
    sites["amazon"].show_card(announced=2)  # the same site again is not a second one
    assert look() == [(SITE_NEW_DATA, "amazon")]
    sites["movies"].show_card(announced=1)
    assert sorted(look(), key=str) == [(NEW_DATA, None), (SITE_NEW_DATA, "movies")]
    assert look() == []
    sites["movies"].show_card(announced=2)
    assert look() == [(SITE_NEW_DATA, "movies")]


def test_what_was_seen_survives_a_restart_and_a_crash_before_prefect_heard_of_it(
    config: FederationConfig, sites: dict[str, PlayedSite], mailbox: Mailbox
) -> None:
    for site in sites.values():
        site.show_card(announced=1)
    with closing(Journal(config.name)) as journal:
        look_at_sites(config, journal, mailbox, Attention(least=3))
        first = untold_events(journal)
    with closing(Journal(config.name)) as journal:  # the process before died here
        look_at_sites(config, journal, mailbox, Attention(least=3))
        assert [event.id for event in untold_events(journal)] == [event.id for event in first]
    (asked,) = [event for event in first if event.name == NEW_DATA]
    assert asked.payload == {"sites": ["amazon", "movies", "nyt"], "run": None}


def test_announcements_count_together_within_their_days_alone(
    sites: dict[str, PlayedSite], journal: Journal, look: Look
) -> None:
    sites["amazon"].show_card(announced=1)
    look()
    with journal.write() as session:
        session.get_one(SiteSeenRow, (journal.federation, "amazon")).since -= 2 * 86400
    sites["movies"].show_card(announced=1)
    assert look(Attention(days=1)) == [(SITE_NEW_DATA, "movies")]
    assert look(Attention(days=3)) == [(NEW_DATA, None)]


def test_a_training_that_began_since_has_answered_and_the_newest_one_is_gone_on_with(
    config: FederationConfig, sites: dict[str, PlayedSite], journal: Journal, mailbox: Mailbox, look: Look
) -> None:
    sites["amazon"].show_card(announced=1)
    look()
    assert states(config, journal, mailbox)["amazon"].waiting
    begin_run(journal, "run-1", config.model_dump_json())
    verify = coordinator_identity(config.name).public.verify
    journal.commit_bytes(f"{config.name}/keys/run-1", verify.encode)
    end_run(journal, "run-1", "completed", "round limit")
    assert not states(config, journal, mailbox)["amazon"].waiting
    for name in ("movies", "nyt"):
        sites[name].show_card(announced=1)
    look_at_sites(config, journal, mailbox, Attention())
    (asked,) = [event for event in untold_events(journal) if event.name == NEW_DATA]
    assert asked.payload == {"sites": ["movies", "nyt"], "run": "run-1"}


def test_a_run_under_dp_is_not_gone_on_with(
    config: FederationConfig, sites: dict[str, PlayedSite], journal: Journal, mailbox: Mailbox
) -> None:
    told = json.loads(config.model_dump_json())
    told["privacy"] |= {"unit": "record", "epsilon": 3.0, "delta": 1e-5, "clip": 1.0, "sampling_rate": 0.1}
    told["aggregation"]["weighting"] = "equal"
    begin_run(journal, "run-1", FederationConfig.model_validate(told).model_dump_json())
    journal.commit_bytes(f"{config.name}/keys/run-1", coordinator_identity(config.name).public.verify.encode)
    end_run(journal, "run-1", "completed", "round limit")
    for site in sites.values():
        site.show_card(announced=1)
    look_at_sites(config, journal, mailbox, Attention())
    (asked,) = [event for event in untold_events(journal) if event.name == NEW_DATA]
    assert asked.payload["run"] is None


def test_another_sites_card_and_an_older_one_are_refused_on_record_and_tell_nothing(
    config: FederationConfig, sites: dict[str, PlayedSite], journal: Journal, look: Look, tmp_path: Path
) -> None:
    store, layout = DirectoryStore(tmp_path / "store"), Layout(config.name)
    sites["amazon"].show_card(announced=1)
    forged = store.get(layout.card("amazon"), limit=10**6)
    store.put(layout.card("movies"), forged)
    assert look() == [(SITE_NEW_DATA, "amazon")]
    with journal.write() as session:
        session.merge(CardRow(federation=config.name, site="nyt", counter=99))
    sites["nyt"].show_card(announced=1)
    assert look() == []
    assert [(event.party, event.kind) for event in journal.security.events()] == [
        ("movies", "refused"),
        ("nyt", "replay"),
    ]


def test_a_site_that_joins_anew_counts_anew(
    config: FederationConfig, sites: dict[str, PlayedSite], look: Look, tmp_path: Path
) -> None:
    sites["amazon"].show_card(announced=5)
    assert look() == [(SITE_NEW_DATA, "amazon")]
    revoke_site(config, "amazon", "keys stolen")
    me = create_identity(tmp_path / "again", "amazon")
    add_site(config, me.public)
    store = DirectoryStore(tmp_path / "store")
    again = PlayedSite(me, store, Mailbox(store, Layout(config.name), me), tmp_path / "again")
    again.show_card()
    assert look() == []
    again.show_card(announced=1)
    assert look() == [(SITE_NEW_DATA, "amazon")]

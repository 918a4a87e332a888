"""Watch all sites' cards for sites that fall silent, return or have new data; emit each event once.

The journal holds both the last known state and the events not yet sent to Prefect: a crash between the two
neither loses nor repeats an event.
"""

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from fedllm.config import FederationConfig
from fedllm.coordinator.cards import refuse_older, shown_card
from fedllm.coordinator.members import roster_of
from fedllm.errors import ObjectNotFoundError, RefusedError
from fedllm.exchange.mailbox import Mailbox
from fedllm.journal.journal import Journal
from fedllm.journal.tables import OutboxRow, RunRow, SiteSeenRow, WatchEventRow
from fedllm.protocol.messages import Card, PublicKeys

SILENT = 300.0  # s without a card: thirty heartbeats
DAYS = 7.0  # days in which announcements count together

SITE_SILENT, SITE_BACK = "fedllm.site.silent", "fedllm.site.back"
SITE_NEW_DATA, NEW_DATA = "fedllm.site.new-data", "fedllm.federation.new-data"


@dataclass(frozen=True)
class Attention:
    """When to emit an event."""

    silent: float = SILENT  # s without a card after which a site counts as silent
    least: int = 2  # number of sites with new data that triggers a round
    days: float = DAYS


@dataclass(frozen=True)
class SiteState:
    """One site of the roster at a look."""

    site: str
    state: str  # of its card: preparing, idle, training, stopped; `unheard` before the first one
    heard: float | None  # s since 1970 by the store's clock
    silent: bool
    announced: int
    waiting: bool  # no round has followed its announcement


@dataclass(frozen=True)
class WatchEvent:
    """An event for Prefect. Its id stays the same when it is sent again."""

    id: str
    name: str
    site: str | None  # None: about the federation
    payload: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class _SeenCard:
    keys: PublicKeys
    heard: float | None
    card: Card | None


def look_at_sites(
    config: FederationConfig, journal: Journal, mailbox: Mailbox, attention: Attention
) -> list[SiteState]:
    """Read the card of every site once, and record changes as events (`untold_events`).

    Args:
        config: the federation.
        journal: its journal; a training may be under way in another process.
        mailbox: the coordinator's.
        attention: when to emit an event.

    Returns:
        The state of every site.

    Raises:
        ExchangeError: the store does not answer; the next look goes on.
    """
    seen_cards = [_read_card(journal, mailbox, keys) for keys in roster_of(journal, mailbox.me).sites]
    now = mailbox.store.now()
    with journal.write() as session:
        rows = [_update_row(session, config.name, seen, now, attention) for seen in seen_cards]
        begun = _newest_start(session, config.name)
        for row in rows:
            if row.since < begun:
                row.answered = row.announced  # a later training has used these data
        waiting = [row for row in rows if _is_waiting(row, attention)]
        if len(waiting) >= attention.least:
            _emit_new_data(session, mailbox, waiting)
        states = {seen.keys.name: seen.card.state if seen.card else "unheard" for seen in seen_cards}
        heard = {seen.keys.name: seen.heard for seen in seen_cards}
        return [
            SiteState(
                row.site,
                states[row.site],
                heard[row.site],
                row.silent,
                row.announced,
                row.announced > row.answered,
            )
            for row in rows
        ]


def untold_events(journal: Journal) -> list[WatchEvent]:
    """Return the events that Prefect has not confirmed."""
    with journal.read() as session:
        mine = select(WatchEventRow).where(WatchEventRow.federation == journal.federation)
        return [WatchEvent(row.id, **json.loads(row.body)) for row in session.scalars(mine)]


def forget_events(journal: Journal, events: list[WatchEvent]) -> None:
    """Delete events that Prefect has received."""
    with journal.write() as session:
        session.execute(delete(WatchEventRow).where(WatchEventRow.id.in_([event.id for event in events])))


def _read_card(journal: Journal, mailbox: Mailbox, keys: PublicKeys) -> _SeenCard:
    """Read a site's card; without a card if it is missing, invalid or older than the newest on record."""
    try:
        shown = shown_card(mailbox.store, journal.federation, keys)
        refuse_older(journal, shown.card)
    except ObjectNotFoundError:
        return _SeenCard(keys, None, None)
    except RefusedError as error:
        journal.security.refused(error, keys.name)
        return _SeenCard(keys, None, None)
    return _SeenCard(keys, shown.at, shown.card)


def _update_row(
    session: Session, federation: str, seen: _SeenCard, now: float, attention: Attention
) -> SiteSeenRow:
    """Update the journal's row of a site, with an event for each change, and return the row."""
    site, verify = seen.keys.name, seen.keys.verify
    row = session.get(SiteSeenRow, (federation, site))
    if row is None:
        row = SiteSeenRow(
            federation=federation,
            site=site,
            verify=verify,
            heard=now,
            silent=False,
            announced=0,
            answered=0,
            since=time.time(),
        )
        session.add(row)
    card = seen.card
    if seen.heard is not None:
        row.heard = max(row.heard, seen.heard)
    if row.verify != verify:  # it joined again with new keys, and its number may start again
        row.verify = verify
        row.announced = row.answered = card.announced if card else 0
    if card is not None and card.announced > row.announced:
        row.announced, row.since = card.announced, time.time()
        _emit(session, federation, SITE_NEW_DATA, site, {"announced": card.announced})
    silent = now - row.heard > attention.silent
    if silent != row.silent:
        row.silent = silent
        payload = {"heard": row.heard, "goodbye": card is not None and card.state == "stopped"}
        _emit(session, federation, SITE_SILENT if silent else SITE_BACK, site, payload)
    return row


def _is_waiting(row: SiteSeenRow, attention: Attention) -> bool:
    return row.announced > row.answered and time.time() - row.since <= attention.days * 86400


def _emit_new_data(session: Session, mailbox: Mailbox, waiting: list[SiteSeenRow]) -> None:
    """Emit one event for all these announcements, and mark them as answered."""
    federation, verify = mailbox.layout.federation, mailbox.me.public.verify
    for row in waiting:
        row.answered = row.announced
    payload = {
        "sites": sorted(row.site for row in waiting),
        "run": _run_to_continue(session, federation, verify),
    }
    _emit(session, federation, NEW_DATA, None, payload)


def _run_to_continue(session: Session, federation: str, verify: str) -> str | None:
    """Return the run that the next round continues; None to begin a new run.

    A run under DP cannot continue: its privacy plan covers only its own rounds. Nor can a run of former keys.
    """
    newest = session.scalars(
        select(RunRow)
        .where(RunRow.federation == federation, RunRow.status == "completed")
        .order_by(RunRow.started.desc())
        .limit(1)
    ).first()
    if newest is None or FederationConfig.model_validate_json(newest.config).privacy.on:
        return None
    begun_by = session.get(OutboxRow, f"{federation}/keys/{newest.run}")
    return newest.run if begun_by is not None and begun_by.body.decode() == verify else None


def _newest_start(session: Session, federation: str) -> float:
    """Return when the newest completed training began, in s since 1970; 0 if there is none."""
    ended = (RunRow.federation == federation, RunRow.status == "completed")
    starts = session.scalars(select(RunRow.started).where(*ended).order_by(RunRow.started.desc()).limit(1))
    return starts.first() or 0.0


def _emit(
    session: Session, federation: str, name: str, site: str | None, payload: Mapping[str, object]
) -> None:
    body = json.dumps({"name": name, "site": site, "payload": payload})
    session.add(WatchEventRow(id=str(uuid.uuid4()), federation=federation, body=body))

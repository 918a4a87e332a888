"""A look at all sites' cards: who fell silent, who is back, who has new data; each is told once.

What was seen is in the journal, and so is what Prefect has not heard yet: a crash between the two neither
loses an event nor makes another one.
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
DAYS = 7.0  # in which announcements count together

SITE_SILENT, SITE_BACK = "fedllm.site.silent", "fedllm.site.back"
SITE_NEW_DATA, NEW_DATA = "fedllm.site.new-data", "fedllm.federation.new-data"


@dataclass(frozen=True)
class Attention:
    """What is worth telling."""

    silent: float = SILENT  # s without a card after which a site counts as silent
    least: int = 2  # different sites with new data that ask for a round
    days: float = DAYS


@dataclass(frozen=True)
class SiteState:
    """One site of the roster at this look."""

    site: str
    state: str  # of its card: preparing, idle, training, stopped; `unheard` before the first one
    heard: float | None  # s since 1970 by the store's clock
    silent: bool
    announced: int
    waiting: bool  # its announcement was followed by no round yet


@dataclass(frozen=True)
class WatchEvent:
    """What Prefect is to hear. The same event has the same id, however often it is told."""

    id: str
    name: str
    site: str | None  # None: it is about the federation
    payload: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class _Glance:
    keys: PublicKeys
    heard: float | None
    card: Card | None


def look_at_sites(
    config: FederationConfig, journal: Journal, mailbox: Mailbox, attention: Attention
) -> list[SiteState]:
    """Look at every card of the roster once, and note what is new as events (`untold_events`).

    Args:
        config: the federation.
        journal: its journal; a training may be under way in another process.
        mailbox: the coordinator's way to the store.
        attention: what is worth telling.

    Raises:
        ExchangeError: the store does not answer; the next look goes on.
    """
    glances = [_glance(journal, mailbox, keys) for keys in roster_of(journal, mailbox.me).sites]
    now = mailbox.store.now()
    with journal.write() as session:
        rows = [_note(session, config.name, glance, now, attention) for glance in glances]
        begun = _newest_start(session, config.name)
        for row in rows:
            if row.since < begun:
                row.answered = row.announced  # a training that began since has seen these data
        waiting = [row for row in rows if _waits(row, attention)]
        if len(waiting) >= attention.least:
            _ask_for_a_round(session, mailbox, waiting)
        states = {glance.keys.name: glance.card.state if glance.card else "unheard" for glance in glances}
        seen = {glance.keys.name: glance.heard for glance in glances}
        return [
            SiteState(
                row.site,
                states[row.site],
                seen[row.site],
                row.silent,
                row.announced,
                row.announced > row.answered,
            )
            for row in rows
        ]


def untold_events(journal: Journal) -> list[WatchEvent]:
    """The events that Prefect has not been told, or not surely."""
    with journal.read() as session:
        mine = select(WatchEventRow).where(WatchEventRow.federation == journal.federation)
        return [WatchEvent(row.id, **json.loads(row.body)) for row in session.scalars(mine)]


def forget_events(journal: Journal, events: list[WatchEvent]) -> None:
    """Prefect has these."""
    with journal.write() as session:
        session.execute(delete(WatchEventRow).where(WatchEventRow.id.in_([event.id for event in events])))


def _glance(journal: Journal, mailbox: Mailbox, keys: PublicKeys) -> _Glance:
    """A site's card, if it is the site's own and not an older one than was seen before."""
    try:
        shown = shown_card(mailbox.store, journal.federation, keys)
        refuse_older(journal, shown.card)
    except ObjectNotFoundError:
        return _Glance(keys, None, None)
    except RefusedError as error:
        journal.security.refused(error, keys.name)
        return _Glance(keys, None, None)
    return _Glance(keys, shown.at, shown.card)


def _note(
    session: Session, federation: str, glance: _Glance, now: float, attention: Attention
) -> SiteSeenRow:
    """Bring what is known of a site up to date, with an event for each change."""
    site, verify = glance.keys.name, glance.keys.verify
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
    card = glance.card
    if glance.heard is not None:
        row.heard = max(row.heard, glance.heard)
    if row.verify != verify:  # it joined anew, and may count anew
        row.verify = verify
        row.announced = row.answered = card.announced if card else 0
    if card is not None and card.announced > row.announced:
        row.announced, row.since = card.announced, time.time()
        _tell(session, federation, SITE_NEW_DATA, site, {"announced": card.announced})
    silent = now - row.heard > attention.silent
    if silent != row.silent:
        row.silent = silent
        told = {"heard": row.heard, "goodbye": card is not None and card.state == "stopped"}
        _tell(session, federation, SITE_SILENT if silent else SITE_BACK, site, told)
    return row


def _waits(row: SiteSeenRow, attention: Attention) -> bool:
    return row.announced > row.answered and time.time() - row.since <= attention.days * 86400


def _ask_for_a_round(session: Session, mailbox: Mailbox, waiting: list[SiteSeenRow]) -> None:
    """One event for all of these announcements; none of them counts again."""
    federation, verify = mailbox.layout.federation, mailbox.me.public.verify
    for row in waiting:
        row.answered = row.announced
    told = {"sites": sorted(row.site for row in waiting), "run": _goes_on(session, federation, verify)}
    _tell(session, federation, NEW_DATA, None, told)


def _goes_on(session: Session, federation: str, verify: str) -> str | None:
    """The run that a further round goes on with; None begins a new one.

    Not one under DP, whose privacy plan covers its own rounds and no more; nor one of former keys.
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
    """When the newest training began that was played to its end, s since 1970."""
    ended = (RunRow.federation == federation, RunRow.status == "completed")
    found = session.scalars(select(RunRow.started).where(*ended).order_by(RunRow.started.desc()).limit(1))
    return found.first() or 0.0


def _tell(
    session: Session, federation: str, name: str, site: str | None, payload: Mapping[str, object]
) -> None:
    body = json.dumps({"name": name, "site": site, "payload": payload})
    session.add(WatchEventRow(id=str(uuid.uuid4()), federation=federation, body=body))

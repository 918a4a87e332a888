"""When each site was last seen: read from its card in the store, as dispatch does; nothing is written."""

import logging
from dataclasses import dataclass

from fedllm.config import FederationConfig
from fedllm.coordinator.dispatch import FRESH
from fedllm.coordinator.journal import Journal, coordinator_folder
from fedllm.coordinator.members import coordinator_identity, roster_of, store_access
from fedllm.errors import ExchangeError, FedllmError, ObjectNotFoundError, RefusedError
from fedllm.exchange.keys import Layout
from fedllm.exchange.mailbox import Mailbox
from fedllm.exchange.messages import Card, PublicKeys

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """One site of the roster."""

    site: str
    at: float | None  # of its newest card, s since 1970 by the store's clock; None: it never showed one
    live: bool


def sites_seen(config: FederationConfig, journal: Journal) -> list[Seen] | None:
    """Look at the card of every site of the roster; None while the store does not answer."""
    if not (coordinator_folder(config.name) / "keys").exists():
        return []  # no site was ever added; looking makes no keys
    try:
        identity = coordinator_identity(config.name)
        mailbox = Mailbox(store_access(config).connect(), Layout(config.name), identity)
        now = mailbox.store.now()
        return [_seen(mailbox, keys, now) for keys in roster_of(journal, identity).sites]
    except (ExchangeError, FedllmError) as error:
        log.warning("the sites' cards cannot be read: %s", error)
        return None


def _seen(mailbox: Mailbox, keys: PublicKeys, now: float) -> Seen:
    key = mailbox.layout.card(keys.name)
    try:
        at = mailbox.store.stat(key).modified
        card = mailbox.read(key, Card, keys).message
    except ObjectNotFoundError:
        return Seen(keys.name, None, live=False)
    except RefusedError:
        return Seen(keys.name, None, live=False)  # dispatch puts it on record
    return Seen(keys.name, at, live=card.state != "stopped" and now - at <= FRESH)

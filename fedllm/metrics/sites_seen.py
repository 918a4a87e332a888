"""When each site was last seen: read from its card in the store, as dispatch does; nothing is written."""

import logging
import threading
from dataclasses import dataclass

from fedllm.config import FederationConfig
from fedllm.coordinator.journal import Journal, coordinator_folder
from fedllm.coordinator.members import coordinator_identity, store_access
from fedllm.coordinator.running_agent import FRESH
from fedllm.errors import ObjectNotFoundError, RefusedError
from fedllm.exchange.keys import Layout
from fedllm.exchange.mailbox import Mailbox
from fedllm.exchange.messages import Card, PublicKeys, Roster

WITHIN = 5.0  # s: Prometheus gives a scrape up after 10, while a store's own retries take over a minute

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """One site of the roster."""

    site: str
    at: float | None  # of its newest card, s since 1970 by the store's clock; None: it never showed one
    live: bool


class Lookout:
    """Looks at the card of every site of the roster, one look at a time.

    Args:
        config: the federation.
        journal: its journal; the caller closes it.
    """

    def __init__(self, config: FederationConfig, journal: Journal) -> None:
        self._config, self._journal = config, journal
        self._starting = threading.Lock()
        self._look: _Look | None = None

    def sites(self) -> list[Seen] | None:
        """What is seen; None while the store does not answer, or not in time.

        A look that takes longer goes on and is told at the next call: many sites are no store that is away.
        """
        if not (coordinator_folder(self._config.name) / "keys").exists():
            return []  # no site was ever added; looking makes no keys
        with self._starting:
            look = self._look
            if look is None or look.told:
                kept = self._journal.roster()
                look = self._look = _Look(
                    self._config, Roster.model_validate_json(kept).sites if kept else ()
                )
                look.start()
        look.join(WITHIN)
        look.told = not look.is_alive()
        return look.found


class _Look(threading.Thread):
    """A look of its own, for a store that swallows what it is sent cannot be hurried; it reads no journal."""

    def __init__(self, config: FederationConfig, sites: tuple[PublicKeys, ...]) -> None:
        super().__init__(name="sites-seen", daemon=True)
        self._config, self._sites = config, sites
        self.found: list[Seen] | None = None
        self.told = False

    def run(self) -> None:
        """Look."""
        try:
            identity, name = coordinator_identity(self._config.name), self._config.name
            mailbox = Mailbox(store_access(self._config).connect(), Layout(name), identity)
            now = mailbox.store.now()
            self.found = [_seen(mailbox, keys, now) for keys in self._sites]
        except Exception as error:  # noqa: BLE001 - whatever a store does, a scrape tells the rest
            log.warning("the sites' cards cannot be read: %s", error)


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

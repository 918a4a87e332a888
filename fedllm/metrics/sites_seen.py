"""When each site was last seen: read from its card in the store, as dispatch does; nothing is written."""

import logging
import threading
from dataclasses import dataclass

from fedllm.config import FederationConfig
from fedllm.coordinator.cards import shown_card
from fedllm.coordinator.members import store_access
from fedllm.errors import ObjectNotFoundError, RefusedError
from fedllm.exchange.store import ObjectStore
from fedllm.journal.journal import Journal, coordinator_folder
from fedllm.protocol.messages import PublicKeys, Roster

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
            store = store_access(self._config).connect()
            now = store.now()
            self.found = [_seen(store, self._config.name, keys, now) for keys in self._sites]
        except Exception as error:  # noqa: BLE001 - whatever a store does, a scrape tells the rest
            log.warning("the sites' cards cannot be read: %s", error)


def _seen(store: ObjectStore, federation: str, keys: PublicKeys, now: float) -> Seen:
    try:
        shown = shown_card(store, federation, keys)
    except (ObjectNotFoundError, RefusedError):
        return Seen(keys.name, None, live=False)  # dispatch puts a refused one on record
    return Seen(keys.name, shown.at, live=shown.is_live(now))

"""Read when each site was last seen from its card in the store, as dispatch does. Nothing is written."""

import logging
import threading
from dataclasses import dataclass

from fedllm.config import FederationConfig
from fedllm.coordinator.cards import shown_card
from fedllm.coordinator.members import store_access
from fedllm.errors import ObjectNotFoundError, RefusedError
from fedllm.exchange.store import ObjectStore
from fedllm.journal.journal import Journal
from fedllm.journal.location import coordinator_folder
from fedllm.protocol.messages import PublicKeys, Roster

WITHIN = 5.0  # s: Prometheus drops a scrape after 10, and a store's own retries take over a minute

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """One site of the roster."""

    site: str
    at: float | None  # of its newest card, s since 1970 by the store's clock; None: it never showed one
    live: bool


class CardReader:
    """Read the cards of all sites in the roster, in one background thread at a time.

    Args:
        config: the federation.
        journal: its journal; the caller closes it.
    """

    def __init__(self, config: FederationConfig, journal: Journal) -> None:
        self._config, self._journal = config, journal
        self._starting = threading.Lock()
        self._reading: _Reading | None = None

    def sites(self) -> list[Seen] | None:
        """Return all sites; None if the store does not answer within `WITHIN`.

        A slower reading continues, and the next call returns its result: with many sites, a reading may be
        slow although the store is up.
        """
        if not (coordinator_folder(self._config.name) / "keys").exists():
            return []  # no site was ever added; a scrape must not create keys
        with self._starting:
            reading = self._reading
            if reading is None or reading.reported:
                roster = self._journal.roster()
                reading = self._reading = _Reading(
                    self._config, Roster.model_validate_json(roster).sites if roster else ()
                )
                reading.start()
        reading.join(WITHIN)
        reading.reported = not reading.is_alive()
        return reading.result


class _Reading(threading.Thread):
    """Read all cards once, in a thread: a hanging store cannot be interrupted. It never uses the journal."""

    def __init__(self, config: FederationConfig, sites: tuple[PublicKeys, ...]) -> None:
        super().__init__(name="sites-seen", daemon=True)
        self._config, self._sites = config, sites
        self.result: list[Seen] | None = None
        self.reported = False  # whether `sites` has returned the result

    def run(self) -> None:
        """Set `result`; leave it None if the store fails."""
        try:
            store = store_access(self._config).connect()
            now = store.now()
            self.result = [_seen(store, self._config.name, keys, now) for keys in self._sites]
        except Exception as error:  # noqa: BLE001 - any failure of the store leaves the other metrics
            log.warning("the sites' cards cannot be read: %s", error)


def _seen(store: ObjectStore, federation: str, keys: PublicKeys, now: float) -> Seen:
    try:
        card = shown_card(store, federation, keys)
    except (ObjectNotFoundError, RefusedError):
        return Seen(keys.name, None, live=False)  # dispatch records a refused card
    return Seen(keys.name, card.at, live=card.is_live(now))

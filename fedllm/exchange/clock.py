"""The store's clock, as seen from here: lateness is judged by it, never by a site's own."""

import time

from fedllm.errors import ExchangeError
from fedllm.exchange.store import ObjectStore


class StoreClock:
    """Asks the store what time it is, again after `every` seconds; between, it counts on by itself.

    It counts by the monotonic clock: setting this machine's clock, backwards or by an hour, changes nothing.
    """

    def __init__(self, store: ObjectStore, every: float = 600.0) -> None:
        self._store = store
        self._every = every
        self._told: tuple[float, float] | None = None  # by the store's clock, and by our monotonic one
        self._tried = 0.0

    def now(self) -> float:
        """S since 1970, by the store's clock."""
        steady = time.monotonic()
        if self._told is None or steady - self._tried > self._every:
            try:
                self._told = self._store.now(), time.monotonic()
            except ExchangeError:
                if self._told is None:
                    raise
                # The store is away: we count on from what it said last.
            self._tried = time.monotonic()
        then, at = self._told
        return then + time.monotonic() - at

"""The store's clock, as seen from here: lateness is judged by it, never by a site's own."""

import time

from fedllm.errors import ExchangeError
from fedllm.exchange.store import ObjectStore


class StoreClock:
    """Asks the store once how far our clock is off, and again after `every` seconds."""

    def __init__(self, store: ObjectStore, every: float = 600.0) -> None:
        self._store = store
        self._every = every
        self._asked: float | None = None  # by our monotonic clock
        self._offset = 0.0

    def now(self) -> float:
        """S since 1970, by the store's clock."""
        if self._asked is None or time.monotonic() - self._asked > self._every:
            try:
                self._offset = self._store.now() - time.time()
            except ExchangeError:
                if self._asked is None:
                    raise
                # The store is away: our own clock carries on from what it said last.
            self._asked = time.monotonic()
        return time.time() + self._offset

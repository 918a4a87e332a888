"""The store's clock as seen from this machine: lateness is judged by it, never by a site's clock."""

import time

from fedllm.errors import ExchangeError
from fedllm.exchange.store import ObjectStore


class StoreClock:
    """The store's time, read every `every` seconds and continued by the monotonic clock in between.

    Setting this machine's clock therefore has no effect.
    """

    def __init__(self, store: ObjectStore, every: float = 600.0) -> None:
        self._store = store
        self._every = every
        self._reference: tuple[float, float] | None = None  # (store's clock, our monotonic clock)
        self._tried = 0.0

    def now(self) -> float:
        """Return the store's time, s since 1970. Raises `ExchangeError` if the store never answered."""
        steady = time.monotonic()
        if self._reference is None or steady - self._tried > self._every:
            try:
                self._reference = self._store.now(), time.monotonic()
            except ExchangeError:
                if self._reference is None:
                    raise
                # The store does not answer: continue from its last time.
            self._tried = time.monotonic()
        then, at = self._reference
        return then + time.monotonic() - at

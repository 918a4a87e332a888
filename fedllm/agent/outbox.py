"""Send committed updates: the identical bytes, until the store has them."""

import logging
import time
from dataclasses import dataclass

from fedllm.agent.accounts import Accounts
from fedllm.agent.folder import WorkFolder
from fedllm.agent.memory import Memory
from fedllm.errors import ExchangeError, RefusedError
from fedllm.exchange.mailbox import Mailbox
from fedllm.protocol.messages import Sealed

log = logging.getLogger(__name__)

LONGEST_PAUSE = 30.0  # s between attempts while the store does not accept updates


@dataclass
class Outbox:
    """Sends the updates that memory holds as committed; makes none."""

    mailbox: Mailbox
    memory: Memory
    accounts: Accounts
    folder: WorkFolder
    pause: float  # s after a second miss in a row; doubled with each further one
    _misses: int = 0  # in a row
    _due: float = 0.0  # by our monotonic clock

    def release(self, run: str, number: int) -> None:
        """Upload committed bytes: the payload first, then the message that names its hash.

        Raises:
            RefusedError: nothing is committed for this round, or its charge paid for other bytes.
            ExchangeError: the store did not accept the update; it stays committed.
        """
        work = self.memory.work(run, number)
        if work is None or work.update is None:
            raise RefusedError(f"round {number} of {run} has no update to release")
        self.accounts.release(self.mailbox.layout.federation, run, number, work.update)
        sealed = self.folder.sealed(run, number)
        if work.payload is not None:
            self.mailbox.send_payload(sealed, Sealed.model_validate_json(work.payload))
        key = self.mailbox.layout.update(self.mailbox.me.name, run, number)
        self.mailbox.store.put(key, work.update)
        self.memory.release(run, number)
        sealed.unlink(missing_ok=True)
        if work.payload is None:
            log.info("round %d of %s: reported that nothing was trained", number, run)
        else:
            log.info("round %d of %s: update released", number, run)

    def release_committed(self) -> None:
        """Send all committed updates; back off while the store does not accept them."""
        if time.monotonic() < self._due:
            return
        missed = False
        for work in self.memory.committed():
            try:
                self.release(work.run, work.round)
            except (ExchangeError, RefusedError, OSError) as error:
                # It stays committed and is tried again; it must not block the rest of the site's work.
                log.warning("round %d of %s is not sent yet: %s", work.round, work.run, error)
                missed = True
        self._misses = self._misses + 1 if missed else 0
        pause = self.pause * (2 ** min(self._misses - 1, 10) - 1) if missed else 0.0
        self._due = time.monotonic() + min(pause, LONGEST_PAUSE)

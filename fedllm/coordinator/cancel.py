"""Cancelling a training, from any process of its coordinator and whether or not that one is alive."""

import time

from fedllm.config import FederationConfig
from fedllm.coordinator.head import point_head
from fedllm.coordinator.members import coordinator_identity, store_access
from fedllm.errors import ExchangeError, ObjectNotFoundError
from fedllm.exchange.mailbox import Mailbox
from fedllm.exchange.store import ObjectStore
from fedllm.journal.journal import Journal
from fedllm.journal.lease import Lease
from fedllm.protocol.layout import Layout
from fedllm.protocol.messages import Head

SETTLE = 1.5  # s in which a deposed coordinator may still write a head that it had signed


def cancel(config: FederationConfig, run: str, *, store: ObjectStore | None = None) -> None:
    """Depose whoever leads the run, mark it `cancelled`, and point the sites nowhere.

    The higher epoch fences off the deposed coordinator at its next write; it looks every second. Sites
    stop at their next look at head.json. What was completed stays, and `--resume` goes on from it.

    Raises:
        ConfigError: there is no such run, or it is over.
        LeaseError: another run of the federation is under way; `run` itself is not.
        ExchangeError: the store does not answer: the run is cancelled, the sites train to their deadline.
    """
    journal = Journal(config.name)
    try:
        with Lease(journal, run, seize=True):
            identity = coordinator_identity(config.name)
            connected = store or store_access(config).connect()
            _point_nowhere(journal, Mailbox(connected, Layout(config.name), identity), run)
    finally:
        journal.close()


def _point_nowhere(journal: Journal, mailbox: Mailbox, run: str) -> None:
    """Show an idle head until no late write of the deposed coordinator can cover it."""
    key, until = mailbox.layout.head, time.monotonic() + SETTLE
    try:
        shown = point_head(journal, mailbox, run, 0, None)
        while time.monotonic() < until:
            time.sleep(SETTLE / 5)
            try:
                covered = mailbox.store.get(key, limit=Head.largest) != shown
            except ObjectNotFoundError:
                covered = True
            if covered:
                shown = point_head(journal, mailbox, run, 0, None)
    except ExchangeError as error:
        raise ExchangeError(
            f"{run} is cancelled, but the sites could not be told and train to their deadline; "
            f"`fedllm cancel {run}` again when the store answers: {error}"
        ) from None

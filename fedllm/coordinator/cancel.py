"""Cancel a training from any process on the coordinator, also when its own process is dead."""

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

SETTLE = 1.5  # s in which a deposed coordinator may still write a head that it signed before


def cancel(config: FederationConfig, run: str, *, store: ObjectStore | None = None) -> None:
    """Take the lease from the run's coordinator, mark the run `cancelled`, and publish an idle head.

    The higher epoch fences off the deposed coordinator at its next write; it checks its lease every second.
    Sites stop when they next read head.json. Completed rounds stay, and `--resume` continues after them.

    Raises:
        ConfigError: there is no such run, or it has ended.
        LeaseError: another run of the federation is under way, and `run` is not.
        ExchangeError: the store does not answer. The run is cancelled; the sites train to their deadline.
    """
    journal = Journal(config.name)
    try:
        with Lease(journal, run, seize=True):
            identity = coordinator_identity(config.name)
            connected = store or store_access(config).connect()
            _publish_idle(journal, Mailbox(connected, Layout(config.name), identity), run)
    finally:
        journal.close()


def _publish_idle(journal: Journal, mailbox: Mailbox, run: str) -> None:
    """Publish an idle head, again if a late write of the deposed coordinator replaces it."""
    key, until = mailbox.layout.head, time.monotonic() + SETTLE
    try:
        idle = point_head(journal, mailbox, run, 0, None)
        while time.monotonic() < until:
            time.sleep(SETTLE / 5)
            try:
                replaced = mailbox.store.get(key, limit=Head.largest) != idle
            except ObjectNotFoundError:
                replaced = True
            if replaced:
                idle = point_head(journal, mailbox, run, 0, None)
    except ExchangeError as error:
        raise ExchangeError(
            f"{run} is cancelled, but the sites could not be notified and train until their deadline; "
            f"run `fedllm cancel {run}` again when the store answers: {error}"
        ) from None

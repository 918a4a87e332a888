"""Detect a running agent: a second invitation would void its store keys."""

from contextlib import closing

from fedllm.config import FederationConfig
from fedllm.coordinator.cards import shown_card
from fedllm.coordinator.members import coordinator_fingerprint, coordinator_identity, roster_of, store_access
from fedllm.errors import ExchangeError, IdentityError, RefusedError
from fedllm.journal.journal import Journal
from fedllm.protocol.messages import PublicKeys


def card_age(config: FederationConfig, keys: PublicKeys) -> float | None:
    """Return the seconds since a member's agent published its card; None if no agent runs.

    Args:
        config: the federation.
        keys: of the site; None is returned if the roster does not hold them.
    """
    if coordinator_fingerprint(config.name) is None:
        return None
    identity = coordinator_identity(config.name)
    with closing(Journal(config.name)) as journal:
        if keys not in roster_of(journal, identity).sites:
            return None
    store = store_access(config).connect()
    try:
        shown = shown_card(store, config.name, keys)
        now = store.now()
    except (ExchangeError, RefusedError):
        return None  # no valid card
    return max(0.0, now - shown.at) if shown.is_fresh(now) and shown.card.state != "stopped" else None


def refuse_running(config: FederationConfig, keys: PublicKeys) -> None:
    """Raise `IdentityError` if a new invitation would cut a running agent off from the store.

    A folder as the store has no users, so it cuts nobody off.
    """
    age = card_age(config, keys) if store_access(config).has_users else None
    if age is not None:
        raise IdentityError(
            f"the agent of {keys.name} runs, last seen {age:.0f} s ago: a new invitation makes its store "
            "keys invalid and disconnects it; add --replace to make one anyway, and send it to the site"
        )

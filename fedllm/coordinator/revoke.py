"""Remove a site: its entry in the roster, its store user with every session, and its card number."""

from contextlib import closing

from fedllm.config import FederationConfig
from fedllm.coordinator.federations import other_federations
from fedllm.coordinator.members import (
    coordinator_identity,
    forget_card,
    publish_roster,
    roster_of,
    save_roster,
    store_access,
    store_iam,
)
from fedllm.coordinator.origin import members_by_origin
from fedllm.errors import ConfigError
from fedllm.journal.journal import Journal

REVOKED = "revoked"  # the kind of the security event


def revoke_site(config: FederationConfig, name: str, reason: str = "") -> int:
    """Remove a site from the federation, also during a training; return the new roster's version.

    The coordinator stops counting the site within seconds, seals nothing more for it, and removes its store
    user: its keys and secret stop working. The same name may join again with new keys. The site's earlier
    contributions stay in the models. After an interruption, a second call completes the removal.

    Raises:
        ConfigError: no such site was ever in the roster.
        ExchangeError: the store does not answer: the site is out of the roster, but call again.
    """
    access, identity = store_access(config), coordinator_identity(config.name)
    with closing(Journal(config.name)) as journal:
        roster = roster_of(journal, identity)
        remaining = tuple(site for site in roster.sites if site.name != name)
        already_revoked = any(
            (event.kind, event.party) == (REVOKED, name) for event in journal.security.events()
        )
        if len(remaining) == len(roster.sites) and not already_revoked:
            raise ConfigError(
                f"{name} is not in the roster of {config.name}: see `fedllm site list --config FILE`"
                f"{other_federations(config.name, name)}"
            )
        if len(remaining) < len(roster.sites):
            roster = save_roster(journal, roster, sites=remaining)
            journal.security.record(REVOKED, name, reason or "revoked by the coordinator")
            forget_card(journal, name)
        # The roster first: sites refuse plans that name a newer roster than the one in the store.
        publish_roster(access.connect(), journal, identity)
        if access.has_users:
            store_iam(access).remove_site(config.name, name)
    return roster.roster_version


def revoke_simulated(config: FederationConfig) -> tuple[str, ...]:
    """Remove every simulated member, so that real sites may join; return their names.

    Raises:
        ConfigError: there are no simulated members.
        ExchangeError: the store does not answer: call again for the remaining members.
    """
    with closing(Journal(config.name)) as journal:
        names = tuple(keys.name for keys in members_by_origin(journal)["simulated"])
    if not names:
        raise ConfigError(f"{config.name} has no simulated members: see `fedllm site list`")
    for name in names:
        revoke_site(config, name, "its simulation was removed")
    return names

"""Taking a site out: the roster, its store user and with it every session, its card."""

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
    """Take a site out of the federation, also while a training runs; returns the new roster's version.

    The coordinator stops counting it within seconds, seals nothing more for it, and removes its store user:
    its keys and secret are worth nothing from then on. The same name may join again with new keys. What
    it contributed to earlier rounds stays in their models. Called again, it finishes what was interrupted.

    Raises:
        ConfigError: no such site was ever in the roster.
        ExchangeError: the store does not answer: the site is out of the roster, but call again.
    """
    access, identity = store_access(config), coordinator_identity(config.name)
    with closing(Journal(config.name)) as journal:
        roster = roster_of(journal, identity)
        kept = tuple(site for site in roster.sites if site.name != name)
        before = any((event.kind, event.party) == (REVOKED, name) for event in journal.security.events())
        if len(kept) == len(roster.sites) and not before:
            raise ConfigError(
                f"{name} is not in the roster of {config.name}: see `fedllm site list --config FILE`"
                f"{other_federations(config.name, name)}"
            )
        if len(kept) < len(roster.sites):
            roster = save_roster(journal, roster, sites=kept)
            journal.security.record(REVOKED, name, reason or "revoked by the coordinator")
            forget_card(journal, name)
        # First the roster: sites refuse every plan of a roster that is newer than the one they are shown.
        publish_roster(access.connect(), journal, identity)
        if access.has_users:
            store_iam(access).remove_site(config.name, name)
    return roster.roster_version


def revoke_simulated(config: FederationConfig) -> tuple[str, ...]:
    """Take out every member that a simulation made, so that real sites may join; returns their names.

    Raises:
        ConfigError: there is none.
        ExchangeError: the store does not answer: call again for those that are left.
    """
    with closing(Journal(config.name)) as journal:
        names = tuple(keys.name for keys in members_by_origin(journal)["simulated"])
    if not names:
        raise ConfigError(f"{config.name} has no simulated members: see `fedllm site list`")
    for name in names:
        revoke_site(config, name, "its simulation was removed")
    return names

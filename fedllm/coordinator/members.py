"""The coordinator's side of joining: its keys, the roster, and sealed invitations."""

import json
import os
import re
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fedllm.config import FederationConfig, fedllm_home
from fedllm.config.frozen import NAME
from fedllm.coordinator.origin import Origin, note_origin, refuse_another_origin
from fedllm.endpoints import endpoints
from fedllm.errors import ConfigError, IdentityError
from fedllm.exchange.connect import connect
from fedllm.exchange.store import ObjectStore
from fedllm.journal.journal import Journal
from fedllm.journal.lease import Lease
from fedllm.journal.location import coordinator_folder
from fedllm.journal.tables import CardRow
from fedllm.protocol.layout import Layout
from fedllm.protocol.messages import COORDINATOR, EVERYONE, Invitation, PublicKeys, Roster
from fedllm.secure.envelope import sign
from fedllm.secure.identity import Identity, create_identity, fingerprint, load_identity
from fedllm.secure.sealing import seal
from fedllm.secure.trust import read_ca

if TYPE_CHECKING:
    from fedllm.exchange.iam import MinioIam


@dataclass(frozen=True)
class StoreAccess:
    """The store's address and the coordinator's credentials for it."""

    url: str
    endpoint: str | None
    region: str
    access_key: str | None
    secret_key: str | None = field(repr=False)
    ca: str | None = None  # PEM; None: the authorities that this machine trusts
    door: str | None = None  # the proxy that sites connect to; None: they connect to the store
    door_ca: str | None = None  # PEM of the door's authority
    registrar: tuple[str, str] | None = field(default=None, repr=False)  # may create users; None: same keys

    @property
    def sites_endpoint(self) -> str | None:
        """The address that sites connect to."""
        return self.door or self.endpoint

    @property
    def sites_ca(self) -> str | None:
        """PEM of the authority for the address that sites connect to."""
        return self.door_ca if self.door else self.ca

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self.url.removeprefix("s3://")

    @property
    def has_users(self) -> bool:
        """Whether the store has users: a folder has none."""
        return self.url.startswith("s3://")

    def connect(self) -> ObjectStore:
        """Connect to the store as the coordinator."""
        return connect(self.url, self.endpoint, self.region, self.access_key, self.secret_key, self.ca)


def store_access(config: FederationConfig) -> StoreAccess:
    """Resolve `store` of a configuration; `auto` is the local stack's MinIO.

    Raises:
        ConfigError: the stack is down, the environment lacks the credentials of an s3:// store, or
            FEDLLM_CA_FILE, the certificate of such a store's own authority, cannot be read.
    """
    store = config.store
    if store.url == "auto":
        local = endpoints()
        if local is None:
            raise ConfigError("store.url is auto and the local stack is down: start it with `fedllm up`")
        return StoreAccess(
            f"s3://{local.bucket}",
            local.minio_url,
            store.region,
            local.minio_access_key,
            local.minio_secret_key,
            local.ca,
            door=local.door_url,
            door_ca=local.ca,
            registrar=local.registrar,
        )
    access, secret = os.environ.get("FEDLLM_ACCESS_KEY"), os.environ.get("FEDLLM_SECRET_KEY")
    if store.url.startswith("s3://") and not (access and secret):
        raise ConfigError("an s3:// store needs FEDLLM_ACCESS_KEY and FEDLLM_SECRET_KEY in the environment")
    ca_file = os.environ.get("FEDLLM_CA_FILE") if store.url.startswith("s3://") else None
    authority = read_ca(ca_file) if ca_file else None
    # Behind a door with TLS, the store may be on loopback without TLS.
    without_tls = store.door is not None and (store.endpoint or "").startswith("http://")
    ca = None if without_tls else authority
    resolved = StoreAccess(store.url, store.endpoint, store.region, access, secret, ca)
    return replace(resolved, door=store.door, door_ca=authority)


def coordinator_identity(federation: str) -> Identity:
    """Return the coordinator's keys for a federation; create them on first use."""
    folder = coordinator_folder(federation) / "keys"
    return load_identity(folder) if folder.exists() else create_identity(folder, COORDINATOR)


def coordinator_fingerprint(federation: str) -> str | None:
    """Return the fingerprint of the coordinator's keys; None if this machine has none for the federation.

    Creates nothing, also for an invalid name.

    Raises:
        IdentityError: the keys cannot be read.
    """
    if re.fullmatch(NAME, federation) is None:
        return None
    folder = fedllm_home() / "coordinator" / federation / "keys"
    return fingerprint(load_identity(folder).public) if folder.exists() else None


def roster_of(journal: Journal, identity: Identity) -> Roster:
    """Return the newest roster; version 0, without sites, if there is none yet."""
    kept = journal.roster()
    if kept is not None:
        return Roster.model_validate_json(kept)
    return Roster(
        federation=journal.federation,
        sender=COORDINATOR,
        receiver=EVERYONE,
        roster_version=0,
        coordinator=identity.public,
        sites=(),
    )


def publish_roster(store: ObjectStore, journal: Journal, identity: Identity) -> None:
    """Publish the newest roster, again if it changed meanwhile: an older one must not be written last."""
    shown = -1
    while (roster := roster_of(journal, identity)).roster_version != shown:
        store.put(Layout(roster.federation).roster, sign(roster, identity))
        shown = roster.roster_version


def add_site(
    config: FederationConfig, keys: PublicKeys, *, replace: bool = False, origin: Origin = "real"
) -> bytes:
    """Add a site to the roster and return its sealed invitation.

    On MinIO the site gets its own user with literal prefixes. Adding a site again gives it a new secret;
    the old one stops working.

    Args:
        config: the federation.
        keys: public keys from the site's card.
        replace: replace other keys under the same name; only between trainings.
        origin: `simulated` for a site that a simulation makes; all members of a federation share one origin.

    Raises:
        ConfigError: the federation's members are of the other origin.
        IdentityError: the name belongs to other keys, or the keys to another name.
        LeaseError: keys are to be replaced while a training is under way.
    """
    if keys.name in {COORDINATOR, EVERYONE}:
        raise IdentityError(f"a site cannot be called {keys.name}: choose another name")
    seal(b"", [keys.recipient])  # an invalid recipient must not enter the roster
    access = store_access(config)
    identity = coordinator_identity(config.name)
    with closing(Journal(config.name)) as journal:
        roster = roster_of(journal, identity)
        refuse_another_origin(journal, origin)
        others = tuple(site for site in roster.sites if site.name != keys.name)
        taken = len(others) < len(roster.sites) and keys not in roster.sites
        for site in others:
            # Sites refuse a roster that holds one pair of keys under two names.
            if site.verify == keys.verify or site.recipient == keys.recipient:
                raise IdentityError(
                    f"{keys.name}'s card has the keys of {site.name}, which is in the roster: each site makes"
                    " its own keys with `fedllm site init`"
                )
        if taken and not replace:
            raise IdentityError(
                f"{keys.name} is in the roster with other keys: choose another name for the new site, or add "
                "--replace if its keys were replaced and you compared the fingerprint"
            )
        with Lease(journal, "keys") if taken else nullcontext():
            if keys not in roster.sites:
                note_origin(journal, keys, origin)  # first: every member has an origin
                sites = tuple(sorted((*others, keys), key=lambda site: site.name))
                roster = save_roster(journal, roster, sites=sites)
                forget_card(journal, keys.name)
        publish_roster(access.connect(), journal, identity)
    return invite(access, roster, keys, identity)


def save_roster(journal: Journal, roster: Roster, **changes: object) -> Roster:
    """Save a changed roster as the next version and return it. Raises `ConfigError` if another came first."""
    changed = roster.model_copy(update={"roster_version": roster.roster_version + 1, **changes})
    journal.save_roster(changed.model_dump_json(by_alias=True), after=roster.roster_version)
    return changed


def forget_card(journal: Journal, name: str) -> None:
    """Forget a site's card number: the site has new keys or was removed, and counts from the start."""
    with journal.write() as session:
        row = session.get(CardRow, (journal.federation, name))
        if row is not None:
            session.delete(row)


def invite(access: StoreAccess, roster: Roster, keys: PublicKeys, identity: Identity) -> bytes:
    """Return a sealed invitation for a site of the roster; gives its store user a new secret."""
    site_access: tuple[str, str] | tuple[None, None] = (None, None)
    if access.has_users:
        site_access = store_iam(access).add_site(roster.federation, keys.name)
    return _sealed_invitation(access, roster, keys, identity, site_access)


def store_iam(access: StoreAccess) -> "MinioIam":
    """Return the administration of the store's users.

    Raises:
        ConfigError: this machine lacks the keys of the store's administrator.
    """
    from fedllm.exchange.iam import MinioIam

    keys = access.registrar or (access.access_key, access.secret_key)
    if access.endpoint is None or keys[0] is None or keys[1] is None:
        raise ConfigError("creating a site's user needs the store's endpoint and its administrator's keys")
    return MinioIam(access.endpoint, keys[0], keys[1], access.bucket, ca=access.ca)


def _sealed_invitation(
    access: StoreAccess,
    roster: Roster,
    keys: PublicKeys,
    identity: Identity,
    site_access: tuple[str | None, str | None],
) -> bytes:
    invitation = Invitation(
        federation=roster.federation,
        sender=COORDINATOR,
        receiver=keys.name,
        roster_version=roster.roster_version,
        coordinator=identity.public,
        store_url=access.url,
        endpoint=access.sites_endpoint,
        region=access.region,
        ca=access.sites_ca,
        access_key=site_access[0],
        secret_key=site_access[1],
    )
    outer = {
        "federation": roster.federation,
        "coordinator": identity.public.model_dump(),
        "envelope": sign(invitation, identity).decode(),
    }
    return seal(json.dumps(outer).encode(), [keys.recipient])

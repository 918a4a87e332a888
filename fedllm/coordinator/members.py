"""The coordinator's side of joining: its keys, the roster, and sealed invitations."""

import json
import os
from dataclasses import dataclass

from fedllm.config import FederationConfig
from fedllm.coordinator.journal import Journal, coordinator_folder
from fedllm.errors import ConfigError, IdentityError
from fedllm.exchange.connect import connect
from fedllm.exchange.keys import Layout
from fedllm.exchange.messages import COORDINATOR, EVERYONE, Invitation, PublicKeys, Roster
from fedllm.exchange.store import ObjectStore
from fedllm.secure.envelope import sign
from fedllm.secure.identity import Identity, create_identity, load_identity
from fedllm.secure.sealing import seal
from fedllm.stack import endpoints


@dataclass(frozen=True)
class StoreAccess:
    """Where the store is and how the coordinator enters it."""

    url: str
    endpoint: str | None
    region: str
    access_key: str | None
    secret_key: str | None

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self.url.removeprefix("s3://")

    @property
    def has_users(self) -> bool:
        """Whether the store tells its users apart: a folder does not."""
        return self.url.startswith("s3://")

    def connect(self) -> ObjectStore:
        """The store, as the coordinator may use it."""
        return connect(self.url, self.endpoint, self.region, self.access_key, self.secret_key)


def store_access(config: FederationConfig) -> StoreAccess:
    """Resolve `store`; `auto` is the local stack's MinIO.

    Raises:
        ConfigError: the stack is down, or the credentials of an s3:// store are not in the environment.
    """
    store = config.store
    if store.url == "auto":
        here = endpoints()
        if here is None:
            raise ConfigError("store.url is auto and the local stack is down: start it with `fedllm up`")
        return StoreAccess(
            f"s3://{here.bucket}", here.minio_url, store.region, here.minio_access_key, here.minio_secret_key
        )
    access, secret = os.environ.get("FEDLLM_ACCESS_KEY"), os.environ.get("FEDLLM_SECRET_KEY")
    if store.url.startswith("s3://") and not (access and secret):
        raise ConfigError("an s3:// store needs FEDLLM_ACCESS_KEY and FEDLLM_SECRET_KEY in the environment")
    return StoreAccess(store.url, store.endpoint, store.region, access, secret)


def coordinator_identity(federation: str) -> Identity:
    """The coordinator's keys for a federation, made on first use."""
    folder = coordinator_folder(federation) / "keys"
    return load_identity(folder) if folder.exists() else create_identity(folder, COORDINATOR)


def roster_of(journal: Journal, identity: Identity) -> Roster:
    """The newest roster; version 0 has no sites."""
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


def publish_roster(store: ObjectStore, roster: Roster, identity: Identity) -> None:
    """Show the roster to all."""
    store.put(Layout(roster.federation).roster, sign(roster, identity))


def add_site(config: FederationConfig, keys: PublicKeys) -> bytes:
    """Take a site into the roster and make its sealed invitation.

    On MinIO the site gets a user of its own with literal prefixes. Adding a site again gives it a new
    secret; the old one stops working.

    Raises:
        IdentityError: the name is taken by other keys.
    """
    if keys.name in {COORDINATOR, EVERYONE}:
        raise IdentityError(f"a site cannot be called {keys.name}: choose another name")
    seal(b"", [keys.recipient])  # a recipient that cannot be sealed for must not get into the roster
    access = store_access(config)
    identity = coordinator_identity(config.name)
    journal = Journal(config.name)
    try:
        roster = roster_of(journal, identity)
        others = tuple(site for site in roster.sites if site.name != keys.name)
        if len(others) < len(roster.sites) and keys not in roster.sites:
            raise IdentityError(
                f"{keys.name} is in the roster with other keys: choose another name for the new site"
            )
        if keys not in roster.sites:
            sites = tuple(sorted((*others, keys), key=lambda site: site.name))
            version = roster.roster_version + 1
            roster = roster.model_copy(update={"sites": sites, "roster_version": version})
            journal.save_roster(roster.model_dump_json(by_alias=True))
        publish_roster(access.connect(), roster, identity)
    finally:
        journal.close()
    site_access: tuple[str, str] | tuple[None, None] = (None, None)
    if access.has_users:
        site_access = _store_user(access, config.name, keys.name)
    return _sealed_invitation(access, roster, keys, identity, site_access)


def _store_user(access: StoreAccess, federation: str, site: str) -> tuple[str, str]:
    from fedllm.exchange.iam import MinioIam

    if access.endpoint is None or access.access_key is None or access.secret_key is None:
        raise ConfigError("making a site's user needs the store's endpoint and its administrator's keys")
    iam = MinioIam(access.endpoint, access.access_key, access.secret_key, access.bucket)
    return iam.add_site(federation, site)


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
        endpoint=access.endpoint,
        region=access.region,
        access_key=site_access[0],
        secret_key=site_access[1],
    )
    outer = {
        "federation": roster.federation,
        "coordinator": identity.public.model_dump(),
        "envelope": sign(invitation, identity).decode(),
    }
    return seal(json.dumps(outer).encode(), [keys.recipient])

"""Join a federation: create keys at the site, write a public card, and accept a sealed invitation."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from fedllm.config import SiteConfig, fedllm_home, load_site
from fedllm.config.frozen import NAME
from fedllm.config.home import private_dir
from fedllm.errors import IdentityError, RefusedError
from fedllm.exchange.store import ObjectStore
from fedllm.protocol.layout import Layout
from fedllm.protocol.messages import Invitation, PublicKeys
from fedllm.secure.envelope import open_envelope
from fedllm.secure.identity import Identity, create_identity, fingerprint, load_identity
from fedllm.secure.sealing import unseal

_POLICY = """\
# This site's own limits, which no plan can exceed. `policy` is a key of this file; these are its defaults:
#   max_steps: 1000       local steps per round
#   max_training: 4h      one training
#   hours: null           when this site trains, in its local time, such as 22:00-06:00
#   min_cohort: 2         sites per round, this one included
#   max_bytes: null       per run, up and down
#   max_epsilon: null     the privacy cost of one training
#   total_epsilon: null   and of all trainings together
# docs/operations.md has the others. The agent reads this file when it starts.
"""


def default_site_home(name: str) -> Path:
    """Return the default folder of a site's keys and memory."""
    return fedllm_home() / "sites" / name


def only_home() -> Path:
    """Return the home of this machine's only site. Raises `IdentityError` if there is none or several."""
    homes = sorted((fedllm_home() / "sites").glob("*/site.yaml"))
    if len(homes) != 1:
        names = ", ".join(home.parent.name for home in homes) or "none"
        raise IdentityError(
            f"which site is this? Give --home, the folder that `fedllm site init` made (in {fedllm_home()}: "
            f"{names})"
        )
    return homes[0].parent


def init_site(name: str, data: Path, home: Path, **settings: object) -> Path:
    """Create a site's keys and file, and return the path of its card (public keys only).

    Existing keys are kept. `settings` are further keys of the site file.
    """
    check_name(name)
    try:
        return _init_site(name, data, home, settings)
    except (FileExistsError, NotADirectoryError):
        raise IdentityError(f"{home} is a file or lies below one: choose another --home") from None
    except OSError as error:
        raise IdentityError(f"cannot write in {home}: {error.strerror}") from None


def check_name(name: str) -> None:
    """Raise `IdentityError` for an invalid site name."""
    if not re.fullmatch(NAME, name):
        raise IdentityError(f"{name!r} is not a site name: use small letters, digits and hyphens, 63 at most")


def _init_site(name: str, data: Path, home: Path, settings: dict[str, object]) -> Path:
    private_dir(home)
    home.chmod(0o700)  # an existing folder may have a wider mode
    keys = home / "keys"
    identity = load_identity(keys) if keys.exists() else create_identity(keys, name)
    if identity.public.name != name:
        raise IdentityError(f"{home} holds the keys of {identity.public.name}: choose another --home")
    site_file = home / "site.yaml"
    if not site_file.exists():
        content = {"name": name, "data": str(data.resolve()), **settings}
        SiteConfig.model_validate(content)
        site_file.write_text(yaml.safe_dump(content, sort_keys=False) + _POLICY, encoding="utf-8")
    card = home / "card.json"
    card.write_text(identity.public.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return card


def read_card(path: Path) -> PublicKeys:
    """Read a card that `site init` wrote. Raises `IdentityError` if it is unreadable or invalid."""
    try:
        return PublicKeys.model_validate_json(path.read_bytes())
    except OSError as error:
        raise IdentityError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError:
        raise IdentityError(f"{path}: no site card; make one at the site with `fedllm site init`") from None


@dataclass(frozen=True)
class Membership:
    """An invited site, with everything that it needs to take part."""

    site: SiteConfig
    home: Path
    identity: Identity
    invitation: Invitation

    @property
    def layout(self) -> Layout:
        """The federation's keys in the store."""
        return Layout(self.invitation.federation)

    def mark(self, what: str) -> str:
        """Return the name under which memory keeps a counter of this coordinator.

        A coordinator with new keys starts its counters again: a thief of the former keys may have driven them
        to their maximum.
        """
        invitation = self.invitation
        return f"{what}/{invitation.federation}/{invitation.coordinator.verify[:8]}"

    def connect(self) -> ObjectStore:
        """Connect to the store as this site."""
        from fedllm.exchange.connect import connect

        access = self.invitation
        return connect(
            access.store_url, access.endpoint, access.region, access.access_key, access.secret_key, access.ca
        )


def accept_invitation(path: Path, home: Path, expected: str | None = None) -> Membership:
    """Open a sealed invitation with the site's own key, and pin the coordinator's keys.

    The invitation travels outside the exchange. Its carrier is trusted only at first contact, and not even
    then if `expected` is the coordinator's fingerprint; later invitations must name the same coordinator.

    Raises:
        IdentityError: the invitation is unreadable, not for this site, or from another coordinator.
    """
    site = load_site(home / "site.yaml")
    identity = load_identity(home / "keys")
    invitation = open_invitation(path, site.name, identity)
    coordinator = invitation.coordinator
    if expected is not None and fingerprint(coordinator) != expected.strip():
        raise IdentityError(
            f"the invitation comes from {fingerprint(coordinator)}, not from the expected coordinator: "
            "do not use it"
        )
    _pin(home / f"coordinator-{invitation.federation}.json", coordinator)
    return Membership(site, home, identity, invitation)


def open_invitation(path: Path, name: str, identity: Identity) -> Invitation:
    """Open a sealed invitation, and verify that the coordinator that it names has signed it.

    Raises:
        IdentityError: the invitation is unreadable, or not for the site `name` with these keys.
    """
    try:
        sealed = path.read_bytes()
    except OSError as error:
        raise IdentityError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        outer = json.loads(unseal(sealed, identity))
        coordinator = PublicKeys.model_validate_json(json.dumps(outer["coordinator"]))
        invitation = open_envelope(
            outer["envelope"].encode(),
            Invitation,
            coordinator,
            federation=outer["federation"],
            sender="coordinator",
            receiver=name,
        )
    except (RefusedError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, RefusedError) else "not an invitation"
        raise IdentityError(f"{path}: {reason}; ask the coordinator for a new invitation") from None
    if invitation.coordinator != coordinator:
        raise IdentityError(f"{path}: it names two coordinators; ask for a new invitation")
    return invitation


def _pin(path: Path, coordinator: PublicKeys) -> None:
    if not path.exists():
        path.write_text(coordinator.model_dump_json(), encoding="utf-8")
    elif read_card(path) != coordinator:
        raise IdentityError(
            f"the invitation names another coordinator than {path.name} does: compare fingerprints with "
            "the coordinator over the telephone, then remove that file"
        )

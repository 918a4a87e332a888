"""Where a site's ledger is, whose budget it spends, and which keys it may go on from."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from fedllm.config import SiteConfig
from fedllm.errors import IdentityError
from fedllm.privacy.ledger import Ledger
from fedllm.secure.identity import Identity, load_identity


def dataset_of(site: SiteConfig) -> str:
    """The data set whose budget a site spends: as its owner calls it, or by the site's own name."""
    return site.dataset_id or site.name


def ledger_path(home: Path, site: SiteConfig) -> Path:
    """`ledger` of the site file, else `ledger.db` beside it."""
    return site.ledger or home / "ledger.db"


def site_ledger(home: Path, site: SiteConfig, identity: Identity) -> Ledger:
    """A site's ledger, ready to go on after new keys. Raises `LedgerError` where the file is torn."""
    return Ledger(ledger_path(home, site), identity, former_identities(home / "keys"))


def former_identities(keys: Path) -> Iterator[Identity]:
    """The keys that `retire_identity` set aside, the newest first; damaged ones are passed over."""
    for folder in sorted(keys.parent.glob(f"{keys.name}-until-*"), reverse=True):
        with suppress(IdentityError):
            yield load_identity(folder)

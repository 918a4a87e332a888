"""Open a site's ledger with its keys, and find its file and data set."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from fedllm.config import SiteConfig
from fedllm.errors import IdentityError
from fedllm.privacy.ledger import Ledger
from fedllm.secure.identity import Identity, load_identity


def dataset_of(site: SiteConfig) -> str:
    """Return the data set whose budget a site spends: its `dataset_id`, else the site's name."""
    return site.dataset_id or site.name


def ledger_path(home: Path, site: SiteConfig) -> Path:
    """Return the ledger's path: `ledger` of the site file, else `ledger.db` beside it."""
    return site.ledger or home / "ledger.db"


def site_ledger(home: Path, site: SiteConfig, identity: Identity) -> Ledger:
    """Open a site's ledger, with its former keys. Raises `LedgerError` if the file is damaged."""
    return Ledger(ledger_path(home, site), identity, former_identities(home / "keys"))


def former_identities(keys: Path) -> Iterator[Identity]:
    """Yield the keys that `retire_identity` set aside, newest first; damaged ones are skipped."""
    for folder in sorted(keys.parent.glob(f"{keys.name}-until-*"), reverse=True):
        with suppress(IdentityError):
            yield load_identity(folder)

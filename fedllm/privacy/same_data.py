"""Warn when one data file is accounted for in two budgets: each sees only part of what is spent.

A budget is identified by the ledger's file and the data set's name in it. The budgets of each data file are
recorded below this account's fedllm home; homes of other accounts and machines are not seen.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from fedllm.config import SiteConfig, fedllm_home
from fedllm.disk import write_whole
from fedllm.privacy.site_ledger import dataset_of, ledger_path


def note_use(site: SiteConfig, home: Path) -> None:
    """Record which ledger accounts for a site's data file."""
    use = _use(site, home)
    folder = _folder(site)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{_short_hash(use['ledger'], use['dataset'])}.json"
    write_whole(file, json.dumps(use).encode())


def other_uses(site: SiteConfig, home: Path) -> Iterator[str]:
    """Yield a warning for each other ledger, or data set in it, that accounts for the same data file."""
    own = _use(site, home)
    for file in sorted(_folder(site).glob("*.json")):
        other = json.loads(file.read_text(encoding="utf-8"))
        if (other["ledger"], other["dataset"]) != (own["ledger"], own["dataset"]):
            yield (
                f"{site.data} is also accounted for as {other['dataset']} in {other['ledger']}, and neither "
                f"budget counts the other: set one `ledger` and one `dataset_id`, or remove {file} "
                "if the data file holds other records now"
            )


def _use(site: SiteConfig, home: Path) -> dict[str, str]:
    ledger = ledger_path(home, site).resolve()
    return {"data": str(site.data.resolve()), "ledger": str(ledger), "dataset": dataset_of(site)}


def _folder(site: SiteConfig) -> Path:
    return fedllm_home() / "budgets" / _short_hash(str(site.data.resolve()))


def _short_hash(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]

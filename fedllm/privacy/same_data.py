"""One data file under two budgets: what its owner should hear, since each budget knows half of what is spent.

A ledger is told apart by its file and the data set's name in it. Which ones a data file was accounted for in
is noted below this account's fedllm home; homes of other accounts and machines are not seen from here.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from fedllm.config import SiteConfig, fedllm_home
from fedllm.disk import write_whole
from fedllm.privacy.site_ledger import dataset_of, ledger_path


def note_use(site: SiteConfig, home: Path) -> None:
    """Note which ledger accounts for a site's data file."""
    told = _use(site, home)
    folder = _folder(site)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{_short(told['ledger'], told['dataset'])}.json"
    write_whole(file, json.dumps(told).encode())


def other_uses(site: SiteConfig, home: Path) -> Iterator[str]:
    """A line for each other ledger, or name in it, that the same data file was accounted for in."""
    mine = _use(site, home)
    for file in sorted(_folder(site).glob("*.json")):
        used = json.loads(file.read_text(encoding="utf-8"))
        if (used["ledger"], used["dataset"]) != (mine["ledger"], mine["dataset"]):
            yield (
                f"{site.data} is accounted for as {used['dataset']} in {used['ledger']} as well, and neither "
                f"budget knows the other: name one `ledger` and one `dataset_id`, or remove {file} "
                "if it holds other records now"
            )


def _use(site: SiteConfig, home: Path) -> dict[str, str]:
    ledger = ledger_path(home, site).resolve()
    return {"data": str(site.data.resolve()), "ledger": str(ledger), "dataset": dataset_of(site)}


def _folder(site: SiteConfig) -> Path:
    return fedllm_home() / "budgets" / _short(str(site.data.resolve()))


def _short(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]

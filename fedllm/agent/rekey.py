"""Replace a site's keys between trainings."""

from pathlib import Path

from filelock import FileLock, Timeout

from fedllm.agent.join import init_site
from fedllm.config import load_site
from fedllm.errors import IdentityError
from fedllm.secure.identity import retire_identity


def rekey_site(home: Path) -> Path:
    """Replace a site's keys, keep the former ones beside them, and return the new card.

    The site's memory stays: its answers and updates stay on record, and its counters continue.

    Raises:
        IdentityError: its agent runs.
    """
    site = load_site(home / "site.yaml")
    lock = FileLock(home / "agent.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise IdentityError(f"the agent of {site.name} runs: stop it before its keys are replaced") from None
    try:
        retire_identity(home / "keys")
        return init_site(site.name, site.data, home)
    finally:
        lock.release()

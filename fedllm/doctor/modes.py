"""Whether what only its owner may read is so."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from fedllm.config import load_site
from fedllm.config.home import fedllm_home
from fedllm.doctor.finding import Finding, fail, ok
from fedllm.errors import ConfigError
from fedllm.privacy.site_ledger import ledger_path


def modes(federation: str | None) -> Iterator[Finding]:
    """Whether what only its owner may read is so: keys, ledgers, secrets, and the folders of journals.

    Args:
        federation: whose coordinator and simulated sites are looked at beside the stack and this machine's
            own sites; None: every one's.
    """
    home, its = fedllm_home(), federation or "*"
    ways = (f"coordinator/{its}", f"simulated/{its}/*", "sites/*")
    homes = [path for way in ways for path in home.glob(way) if path.is_dir()]
    keys = [path for owner in homes for path in owner.glob("keys*") if path.is_dir()]
    secret = [home / "ca" / "ca.key", home / "ca" / "server.key", *_stack_secrets(home / "stack")]
    secret += [path for folder in keys for path in folder.glob("*.key")]
    yield open_to_others("keys", [home / "stack", *homes, *keys], [*secret, *_ledgers(homes)])


def _ledgers(homes: Sequence[Path]) -> Iterator[Path]:
    """The ledgers of the sites among some homes, wherever their files put them."""
    for home in homes:
        with suppress(ConfigError):  # a site file that cannot be read is `doctor --site`'s to tell
            yield ledger_path(home, load_site(home / "site.yaml"))


def _stack_secrets(stack: Path) -> list[Path]:
    names = ("stack.json", "supervisord.conf", "passwords.json", "store-users.json", "client.env")
    more = ("minio/root.json", "databases.json", "mlflow-auth.ini", "mlflow-auth.db")
    return [stack / name for name in (*names, *more)]


def open_to_others(name: str, folders: Sequence[Path], files: Sequence[Path]) -> Finding:
    """Folders and files that are there, and must be their owner's alone."""
    wanted = [(path, 0o700) for path in folders] + [(path, 0o600) for path in files]
    there = [(path, mode) for path, mode in wanted if path.exists()]
    wide = [(path, mode) for path, mode in there if path.stat().st_mode & 0o077]
    if not wide:
        return ok(name, f"{len(there)} files and folders, their owner's alone")
    return fail(
        name,
        f"open to others: {', '.join(str(path) for path, _ in wide)}",
        "; ".join(f"chmod {mode:o} {path}" for path, mode in wide)
        + "; what others could read, replace: docs/operations.md",
    )

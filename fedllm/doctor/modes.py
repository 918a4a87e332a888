"""Check that only their owner can read private files."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from fedllm.config import load_site
from fedllm.config.home import fedllm_home
from fedllm.doctor.finding import Finding, fail, ok
from fedllm.errors import ConfigError
from fedllm.privacy.site_ledger import ledger_path


def modes(federation: str | None) -> Iterator[Finding]:
    """Check that only their owner can read keys, ledgers, secrets, and the folders of journals.

    Args:
        federation: whose coordinator and simulated sites to check, besides the stack and this machine's own
            sites; None: of all federations.
    """
    home, name = fedllm_home(), federation or "*"
    patterns = (f"coordinator/{name}", f"simulated/{name}/*", "sites/*")
    homes = [path for pattern in patterns for path in home.glob(pattern) if path.is_dir()]
    keys = [path for owner in homes for path in owner.glob("keys*") if path.is_dir()]
    secret = [home / "ca" / "ca.key", home / "ca" / "server.key", *_stack_secrets(home / "stack")]
    secret += [path for folder in keys for path in folder.glob("*.key")]
    yield open_to_others("keys", [home / "stack", *homes, *keys], [*secret, *_ledgers(homes)])


def _ledgers(homes: Sequence[Path]) -> Iterator[Path]:
    """Yield the ledger paths of the sites among `homes`, from their site files."""
    for home in homes:
        with suppress(ConfigError):  # `doctor --site` reports a site file that cannot be read
            yield ledger_path(home, load_site(home / "site.yaml"))


def _stack_secrets(stack: Path) -> list[Path]:
    names = ("stack.json", "supervisord.conf", "passwords.json", "store-users.json", "client.env")
    more = ("minio/root.json", "databases.json", "mlflow-auth.ini", "mlflow-auth.db")
    return [stack / name for name in (*names, *more)]


def open_to_others(name: str, folders: Sequence[Path], files: Sequence[Path]) -> Finding:
    """Check that group and others have no access to the existing folders and files."""
    wanted = [(path, 0o700) for path in folders] + [(path, 0o600) for path in files]
    existing = [(path, mode) for path, mode in wanted if path.exists()]
    wide = [(path, mode) for path, mode in existing if path.stat().st_mode & 0o077]
    if not wide:
        return ok(name, f"{len(existing)} files and folders, readable only by their owner")
    return fail(
        name,
        f"open to others: {', '.join(str(path) for path, _ in wide)}",
        "; ".join(f"chmod {mode:o} {path}" for path, mode in wide)
        + "; replace what others could read: docs/operations.md",
    )

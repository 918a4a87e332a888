"""Check where sites keep their privacy ledgers: a backup must include each, and a restore must find it."""

from collections.abc import Iterator
from pathlib import Path

from fedllm.backup.inventory import files, hidden_sites, is_excluded, site_homes
from fedllm.backup.ledgers import is_ledger, ledger_of, marks, unreadable_sites
from fedllm.backup.manifest import LedgerMark, Manifest
from fedllm.config.yaml_text import read_yaml
from fedllm.errors import BackupError


def refuse_unkept_ledgers(home: Path, *, keys: bool) -> None:
    """Raise `BackupError` when a site's ledger has a path that the backup excludes.

    After a restore the site would begin a new ledger there and spend its budget a second time.

    Args:
        home: fedllm's home.
        keys: whether the backup includes private keys.
    """
    for name, path in _ledgers(home):
        if path.is_relative_to(home) and is_excluded(_below(home, path), keys=keys):
            raise BackupError(
                f"{name} names {path} as its privacy ledger, and a backup excludes files of that name or in "
                "that place: stop its agent, move the ledger, and name its new place in site.yaml"
            )


def refuse_lost_ledgers(home: Path, manifest: Manifest) -> None:
    """Raise `BackupError` when a restored site would not use its newest ledger.

    A ledger outside the home is not in the backup: the file at that path is the newest, and without one the
    site would begin a new ledger and spend its budget a second time. A ledger with an absolute path inside
    the old home has a copy here that its site would not use.

    Args:
        home: the restored home.
        manifest: the archive's list of contents.
    """
    for name, path in _ledgers(home):
        if path.is_relative_to(home):
            if is_excluded(_below(home, path), keys=manifest.keys) and not path.exists():
                raise BackupError(
                    f"{name} keeps its privacy ledger at {path}, which no archive holds: with a new one it "
                    "would spend its budget again. Extract the other parts of the archive with tar"
                )
        elif path.is_relative_to(manifest.home):
            raise BackupError(
                f"{name} names its privacy ledger by an absolute path, {path}, inside the old home: "
                f"restore into {manifest.home} (a path relative to site.yaml can be restored anywhere)"
            )
        elif not path.exists():
            raise BackupError(
                f"{name} keeps its privacy ledger at {path}, and no file is there: put the "
                f"newest copy there first, or restore into {manifest.home}"
            )
    restored = set(_marks(home))
    for mark in manifest.ledgers:
        if mark not in restored:
            raise BackupError(
                f"the restored privacy ledger of {mark.dataset} in {mark.home or 'the home'} differs from "
                "the archive's list of contents: use another backup"
            )


def ledger_notes(home: Path) -> Iterator[str]:
    """Yield lines on ledgers that are or may be missing from the archive, or tie it to this home."""
    for name, why in unreadable_sites(home).items():
        yield f"no agent can start in {name}, and its privacy ledger may be outside the home: {why}"
    for name in hidden_sites(home):
        yield f"not in it: the site in {home / name}, with keys and ledger, since that folder is hidden"
    for name, path in _ledgers(home):
        if not path.is_relative_to(home):
            yield f"not in it: the privacy ledger of {name}, {path}"
        elif _has_absolute_ledger(home / name):
            yield f"restore it into {home} only: {name} names its privacy ledger by an absolute path, {path}"


def _ledgers(home: Path) -> Iterator[tuple[str, Path]]:
    """Yield (folder below the home, ledger path) of every site with a readable site file."""
    unread = unreadable_sites(home)
    for site in site_homes(home):
        if (name := _below(home, site)) not in unread:
            yield name, ledger_of(site)


def _below(home: Path, path: Path) -> str:
    return path.relative_to(home).as_posix()


def _has_absolute_ledger(site: Path) -> bool:
    """Return whether a readable site file names its ledger by an absolute path."""
    file = site / "site.yaml"
    raw = read_yaml(file.read_text(encoding="utf-8")) if file.exists() else {}
    return Path(raw.get("ledger") or "").is_absolute()


def _marks(home: Path) -> Iterator[LedgerMark]:
    """Yield the newest entry of every ledger chain in a home."""
    for _, name in files(home, keys=True):
        if is_ledger(home / name):
            yield from marks(home / name, name)

"""Where sites' privacy ledgers lie: in places that no archive holds, and where a restore must find them."""

from collections.abc import Iterator
from pathlib import Path

from fedllm.backup.inventory import files, hidden_sites, is_passed_over, site_homes
from fedllm.backup.ledgers import is_ledger, ledger_of, marks, unread_sites
from fedllm.backup.manifest import LedgerMark, Manifest
from fedllm.config.yaml_text import read_yaml
from fedllm.errors import BackupError


def refuse_unkept_ledgers(home: Path, *, keys: bool) -> None:
    """Raise `BackupError` when a site's ledger is, or is to be, where the home's archive would not hold it.

    A restored site would begin a new one there, and spend its budget a second time.

    Args:
        home: fedllm's.
        keys: whether private keys go into the archive.
    """
    for name, path in _ledgers(home):
        if path.is_relative_to(home) and is_passed_over(_below(home, path), keys=keys):
            raise BackupError(
                f"{name} names {path} as its privacy ledger, and this backup takes no file of that name or "
                "in that place: end its agent, move the ledger, and name its new place in site.yaml"
            )


def refuse_lost_ledgers(home: Path, manifest: Manifest) -> None:
    """Raise `BackupError` when a restored site's ledger is neither in the restored home nor where it was.

    One outside the home was not in the backup. While it is where it was it is the newest there is; where
    nothing is, the site would begin a new ledger, and spend its budget a second time. One that is named in
    full inside the home that was backed up would have a copy here that its site does not use.

    Args:
        home: fedllm's, as it was restored.
        manifest: the archive's list of contents.
    """
    for name, path in _ledgers(home):
        if path.is_relative_to(home):
            if is_passed_over(_below(home, path), keys=manifest.keys) and not path.exists():
                raise BackupError(
                    f"{name} keeps its privacy ledger at {path}, which no archive holds: with a new one it "
                    "would spend its budget again. Take the other parts out of the archive by tar"
                )
        elif path.is_relative_to(manifest.home):
            raise BackupError(
                f"{name} names its privacy ledger in full, {path}, inside the home that was backed up: "
                f"restore into {manifest.home} (a path relative to site.yaml can be restored anywhere)"
            )
        elif not path.exists():
            raise BackupError(
                f"{name} keeps its privacy ledger at {path}, where nothing is: put the "
                f"newest copy there first, or restore into {manifest.home}"
            )
    found = set(_marks(home))
    for mark in manifest.ledgers:
        if mark not in found:
            raise BackupError(
                f"the privacy ledger of {mark.dataset} in {mark.home or 'the home'} did not come back as the "
                "archive's list of contents has it: use another backup"
            )


def odd_ledgers(home: Path) -> Iterator[str]:
    """Lines on ledgers that are not in the archive, may not be, or keep it from being restored elsewhere."""
    for name, why in unread_sites(home).items():
        yield f"no agent starts in {name}, and its privacy ledger may be outside the home: {why}"
    for name in hidden_sites(home):
        yield f"not in it: the site in {home / name}, with keys and ledger, since that folder is hidden"
    for name, path in _ledgers(home):
        if not path.is_relative_to(home):
            yield f"not in it: the privacy ledger of {name}, {path}"
        elif _is_named_in_full(home / name):
            yield f"restore it into {home} alone: {name} names its privacy ledger in full, {path}"


def _ledgers(home: Path) -> Iterator[tuple[str, Path]]:
    """The folder below the home of every site whose site file can be read, and its ledger."""
    unread = unread_sites(home)
    for site in site_homes(home):
        if (name := _below(home, site)) not in unread:
            yield name, ledger_of(site)


def _below(home: Path, path: Path) -> str:
    return path.relative_to(home).as_posix()


def _is_named_in_full(site: Path) -> bool:
    """Whether a site file, which can be read, names its ledger by an absolute path."""
    file = site / "site.yaml"
    raw = read_yaml(file.read_text(encoding="utf-8")) if file.exists() else {}
    return Path(raw.get("ledger") or "").is_absolute()


def _marks(home: Path) -> Iterator[LedgerMark]:
    """The newest entry of every chain that a restore would find."""
    for _, name in files(home, keys=True):
        if is_ledger(home / name):
            yield from marks(home / name, name)

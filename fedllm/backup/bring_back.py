"""Restores an archive into an empty home: checked first, whole or not at all, and with its numbers raised."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from fedllm.backup.databases import refuse_filled as refuse_tables
from fedllm.backup.databases import restore_postgres
from fedllm.backup.manifest import DATABASES, HOME, OBJECTS, Manifest, Member
from fedllm.backup.objects import Shelf
from fedllm.backup.reading import members, save, verify
from fedllm.backup.skip_ahead import Retired, retire_reservations, skip_journal, skip_memory
from fedllm.backup.stores import foreign_shelf, local_shelves, refuse_filled
from fedllm.config import fedllm_home
from fedllm.config.home import private_dir
from fedllm.coordinator.journal import Journal
from fedllm.disk import room
from fedllm.errors import BackupError, ConfigError
from fedllm.stack.databases import VARIABLES
from fedllm.stack.place import Place, StackState

Progress = Callable[[str], None]

_SPARED = {"cache"}  # what may be in an empty home: it can be made again, and may have cost an hour
_URLS = VARIABLES | {"journal": "FEDLLM_JOURNAL_URL"}


@dataclass(frozen=True)
class Restored:
    """What a restore came to."""

    manifest: Manifest
    objects: int
    retired: tuple[Retired, ...]  # trainings with privacy that cannot go on
    outside: dict[str, tuple[str, ...]]  # by federation, sites that live elsewhere and need new invitations


def restore(
    archive: Path,
    *,
    identity: Path | None = None,
    keep_objects: bool = False,
    nothing_spent: bool = False,
    progress: Progress = lambda _: None,
) -> Restored:
    """Bring a backup back into `$FEDLLM_HOME`, which must be empty.

    Args:
        archive: what `take_backup` wrote.
        identity: file of the age identity that opens a sealed one.
        keep_objects: leave the objects of stores of one's own as they are there.
        nothing_spent: the owner's word that no training with privacy went on after the backup was taken.
        progress: hears a line for each part.

    Raises:
        ConfigError: the home is not empty, or a database's or store's address or keys are not named.
        BackupError: the archive is damaged, or a store or database to restore into is not empty.
    """
    home = fedllm_home()
    _refuse_filled_home(home)
    manifest = verify(archive, identity)
    progress(f"{archive} is whole: {len(manifest.members)} members, {manifest.size / 1e6:.1f} MB")
    urls = _database_urls(manifest)
    for url in urls.values():
        refuse_tables(url)
    foreign = {b.folder: foreign_shelf(b) for b in manifest.buckets if not b.own and not keep_objects}
    for shelf in foreign.values():
        refuse_filled(shelf)
    spared = {path.name for path in home.iterdir()} if home.exists() else set()
    try:
        private_dir(home).chmod(0o700)  # it may have been there, for its cache
        with room(home, "restore again"):
            count = _unpack(_Archive(archive, identity, manifest), home, urls, foreign, progress)
        _forget_ports()
        _raise_journals(manifest, urls)
        retired = _raise_sites(home, manifest, nothing_spent=nothing_spent)
    except BaseException:
        for path in home.iterdir():
            if path.name not in spared:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise
    return Restored(manifest, count, tuple(retired), _outside(manifest, home))


def _refuse_filled_home(home: Path) -> None:
    if home.exists() and (found := sorted({path.name for path in home.iterdir()} - _SPARED)):
        raise ConfigError(f"{home} is not empty ({found[0]}): restore into an empty folder with --into")


def _database_urls(manifest: Manifest) -> dict[str, str]:
    """Where the dumps of Postgres go."""
    urls = {}
    for name in manifest.databases:
        urls[name] = os.environ.get(_URLS[name], "")
        if not urls[name].startswith("postgresql"):
            raise ConfigError(f"{name} was in a Postgres: name an empty database for it in {_URLS[name]}")
    if "journal" not in urls and os.environ.get(_URLS["journal"]):
        raise ConfigError("the journal was in a SQLite file: unset FEDLLM_JOURNAL_URL to restore it as one")
    return urls


@dataclass(frozen=True)
class _Archive:
    """An archive that was checked, read again."""

    path: Path
    identity: Path | None
    manifest: Manifest

    def save(self, kind: str, folder: Path) -> Iterator[tuple[Member, Path]]:
        """Each member whose name begins with `kind`, in a file that is gone when the next is asked for."""
        listed = {member.name: member for member in self.manifest.members}
        for name, file in members(self.path, self.identity):
            if not name.startswith(kind):
                continue
            if name not in listed:
                raise BackupError(f"{self.path} changed since it was checked")
            path = folder / "member"
            save(file, path, listed[name].sha256)
            yield listed[name], path
            path.unlink(missing_ok=True)


def _unpack(
    found: _Archive, home: Path, urls: Mapping[str, str], foreign: Mapping[str, Shelf], progress: Progress
) -> int:
    """Files first, since the local store's keys are among them; objects last. Returns how many objects."""
    with tempfile.TemporaryDirectory(prefix=".restoring-", dir=home) as temporary:
        scratch = Path(temporary)
        for member, path in found.save(HOME, scratch):
            path.chmod(member.mode & 0o755)
            path.rename(_below(home, member.name.removeprefix(HOME)))
        for member, path in found.save(DATABASES, scratch):
            restore_postgres(urls[member.name.removeprefix(DATABASES).removesuffix(".dump")], path)
        progress("files and databases are back")
        own = [bucket for bucket in found.manifest.buckets if bucket.own]
        if not own:
            return _put_objects(found, foreign, scratch)
        private_dir(home / "stack")
        with local_shelves(own, make=True) as local:
            return _put_objects(
                found, {shelf.bucket.folder: shelf for shelf in local} | dict(foreign), scratch
            )


def _put_objects(found: _Archive, shelves: Mapping[str, Shelf], scratch: Path) -> int:
    stored = {entry.member: entry for entry in found.manifest.objects}
    count = 0
    for member, path in found.save(OBJECTS, scratch):
        entry = stored[member.name]
        if (shelf := shelves.get(entry.folder)) is not None:
            shelf.store(entry, path)
            count += 1
    return count


def _below(home: Path, name: str) -> Path:
    """A member's place in the home, with its folder made; nothing leads out of it."""
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts:
        raise BackupError(f"{name} in the archive leads out of the home: it was not written by fedllm")
    target = home.joinpath(*parts)
    private_dir(home)
    for folder in reversed(target.relative_to(home).parents[:-1]):
        private_dir(home / folder)
    return target


def _forget_ports() -> None:
    """The stack finds its ports anew, and registers its deployments again."""
    place = Place.here()
    if place.state.exists():
        state = StackState.load(place)
        replace(state, ports={}, deployed="", external_prefect=None).save(place)


def _raise_journals(manifest: Manifest, urls: Mapping[str, str]) -> None:
    for federation in manifest.federations:
        with closing(Journal(federation, urls.get("journal"))) as journal:
            skip_journal(journal, manifest.taken, manifest.home, fedllm_home())


def _raise_sites(home: Path, manifest: Manifest, *, nothing_spent: bool) -> list[Retired]:
    """The sites that live under this home."""
    retired: list[Retired] = []
    for memory in sorted(home.glob("simulated/*/*/memory.db")):
        skip_memory(memory.parent)
    if not nothing_spent and manifest.keys:
        for ledger in sorted(home.glob("simulated/*/*/ledger.db")):
            retired += retire_reservations(ledger.parent)
    return retired


def _outside(manifest: Manifest, home: Path) -> dict[str, tuple[str, ...]]:
    """Sites of the rosters that are not under this home: the store does not know their users any more."""
    outside = {}
    for federation in manifest.federations:
        with closing(Journal(federation)) as journal:
            roster = journal.roster()
        sites = _site_names(roster) if roster else ()
        there = {path.name for path in (home / "simulated" / federation).glob("*")}
        if left := tuple(site for site in sites if site not in there):
            outside[federation] = left
    return outside


def _site_names(roster: str) -> tuple[str, ...]:
    from fedllm.exchange.messages import Roster

    return tuple(site.name for site in Roster.model_validate_json(roster).sites)

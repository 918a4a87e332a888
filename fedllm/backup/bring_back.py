"""Restores an archive into an empty home: checked first, whole or not at all, and with its numbers raised."""

import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm.backup.databases import refuse_unfit
from fedllm.backup.inventory import site_homes
from fedllm.backup.ledger_places import refuse_lost_ledgers
from fedllm.backup.ledgers import Retired, paid_rounds, retire_ledgers, unread_sites
from fedllm.backup.manifest import Manifest
from fedllm.backup.reading import verify
from fedllm.backup.skip_ahead import skip_journal, skip_memory
from fedllm.backup.stores import missing_objects, refuse_filled, shelves_to_fill
from fedllm.backup.unpack import Unpacking
from fedllm.config import fedllm_home
from fedllm.config.home import RESTORING, private_dir
from fedllm.disk import refuse_without_room, room, sync_folder
from fedllm.endpoints.place import Place
from fedllm.endpoints.state import StackState
from fedllm.errors import BackupError, ConfigError
from fedllm.journal.journal import Journal
from fedllm.postgres_address import is_postgres
from fedllm.stack.databases import VARIABLES, Databases, database_url, remember

if TYPE_CHECKING:
    from fedllm.backup.objects import Shelf

Progress = Callable[[str], None]

_SPARED = {"cache"}  # what may be in an empty home: it can be made again, and may have cost an hour
_JOURNAL = "FEDLLM_JOURNAL_URL"


@dataclass(frozen=True)
class Restored:
    """What a restore came to."""

    manifest: Manifest
    objects: int
    retired: tuple[Retired, ...]  # trainings with privacy that cannot go on
    outside: dict[str, tuple[str, ...]]  # by federation, sites that live elsewhere and need new invitations
    given_up: tuple[tuple[str, str, int], ...] = ()  # site's folder, run, round: paid for, and perhaps sent
    unread: tuple[str, ...] = ()  # folders of sites whose site.yaml cannot be read
    missing: tuple[str, ...] = ()  # keys of the archive that stores which were left as they are do not hold


def restore(  # noqa: PLR0913 - what the operator says, each by its name
    archive: Path,
    *,
    identity: Path | None = None,
    keep_objects: bool = False,
    nothing_spent: bool = False,
    stores: Collection[str] = (),
    progress: Progress = lambda _: None,
) -> Restored:
    """Bring a backup back into `$FEDLLM_HOME`, which must be empty.

    Args:
        archive: what `take_backup` wrote.
        identity: file of the age identity that opens a sealed one.
        keep_objects: leave the objects of stores of one's own as they are there.
        nothing_spent: the owner's word that no training with privacy went on after the backup was taken.
        stores: folders that objects may be written to (`file:///…`): an archive alone must not choose one.
        progress: hears a line for each part.

    Raises:
        ConfigError: the home is not empty, now or once the archive is checked, a database's or store's
            address or keys are not named, or those of a database are that was in a SQLite file.
        BackupError: the archive is damaged, a store or database to restore into is not empty, or a privacy
            ledger cannot be brought back as it must be.
        DiskFullError: the home's disk has no room for it.
    """
    home = fedllm_home()
    _refuse_filled_home(home)
    manifest = verify(archive, identity)
    progress(f"{archive} is whole: {len(manifest.members)} members, {manifest.size / 1e6:.1f} MB")
    refuse_without_room(home, manifest.room, "restore again")
    urls = _database_urls(manifest)
    for url in urls.values():
        refuse_unfit(url)
    foreign: dict[str, Shelf] = {}
    missing: tuple[str, ...] = ()
    if keep_objects:
        missing = missing_objects(manifest, progress)
    else:
        foreign = shelves_to_fill(manifest, stores)
    for shelf in foreign.values():
        refuse_filled(shelf)
    with _filled(home, progress) as scratch:
        unpacking = Unpacking(archive, identity, manifest, scratch, foreign)
        try:
            unpacking.files(home)
            # Before anything that takes long: whatever reads these files from now on must not use them twice.
            refuse_lost_ledgers(home, manifest)
            retired = () if nothing_spent else tuple(retire_ledgers(home))
            # Even where nothing was spent after it: the backup read the memory before the ledger.
            given_up = tuple(_raise_memories(home, manifest.taken))
            unread = tuple(unread_sites(home))
            _forget_addresses(urls)
            unpacking.databases(urls)
            outside = _raise_journals(home, manifest, urls.get("journal"))
            progress("files and databases are back")
            count = unpacking.objects(home, progress)
        except BaseException:
            unpacking.take_back()
            raise
    return Restored(manifest, count, retired, outside, given_up, unread, missing)


def _refuse_filled_home(home: Path, *, but: Collection[str] = ()) -> None:
    if home.exists() and (found := sorted({path.name for path in home.iterdir()} - _SPARED - {*but})):
        raise ConfigError(f"{home} is not empty ({found[0]}): restore into an empty folder with --into")


def _database_urls(manifest: Manifest) -> dict[str, str]:
    """Where the dumps of Postgres go."""
    given = {"journal": os.environ.get(_JOURNAL) or None} | {name: database_url(name) for name in VARIABLES}
    urls: dict[str, str] = {}
    for name, url in given.items():
        variable = VARIABLES.get(name, _JOURNAL)
        if name not in manifest.databases:
            if url is not None:  # the next `up`, or training, would begin in an empty one
                raise ConfigError(f"the archive holds no dump of {name}: unset {variable} to restore it")
        elif url is None or not is_postgres(url):
            raise ConfigError(f"{name} was in a Postgres: name an empty database for it in {variable}")
        else:
            urls[name] = url
    return urls


@contextmanager
def _filled(home: Path, progress: Progress) -> Iterator[Path]:
    """A home that is filled in the block, with a folder for passing things; empty again if that fails."""
    with room(home, "restore again"), _claimed(home, progress):
        try:
            with tempfile.TemporaryDirectory(prefix=".restoring-", dir=home) as scratch:
                yield Path(scratch)
            Place(home).restored.touch(mode=0o600)
            os.sync()  # once the marker is gone the home counts as whole: all of it is on the disk by then
        except BaseException:
            for path in home.iterdir():
                if path.name not in {RESTORING, *_SPARED}:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            _unmark(home)
            raise
        _unmark(home)


@contextmanager
def _claimed(home: Path, progress: Progress) -> Iterator[None]:
    """A home that is this restore's own in the block, and still empty: the archive's check took its time.

    A file in it says so until `_unmark`, also where the restore was killed, and whatever would use the home
    refuses. Who has looked for it before, such as an `up` that has just begun, waits for the stack's lock.
    """
    marker = home / RESTORING
    try:
        private_dir(home).chmod(0o700)  # it may have been there, for its cache
        os.close(os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        raise ConfigError(f"another restore has begun to fill {home}: let it end") from None
    except OSError as error:
        raise BackupError(f"cannot restore into {home}: {error.strerror}") from None
    with ExitStack() as held:
        try:
            sync_folder(home)
            _refuse_filled_home(home, but={RESTORING})
            place = Place(private_dir(home / "stack").parent)
            held.enter_context(place.lock(progress))
            _refuse_begun_stack(place)
        except BaseException:
            _unmark(home)
            raise
        yield


def _refuse_begun_stack(place: Place) -> None:
    if {path.name for path in place.folder.iterdir()} != {"lock"}:
        raise ConfigError(f"`fedllm up` has begun in {place.home}: restore into an empty folder with --into")


def _unmark(home: Path) -> None:
    (home / RESTORING).unlink(missing_ok=True)
    sync_folder(home)


def _raise_memories(home: Path, taken: float) -> Iterator[tuple[str, str, int]]:
    """Raise each site's numbers; yields the site, run and round of what it gives up."""
    for site in site_homes(home):
        if (site / "memory.db").exists():
            for run, number in skip_memory(site, taken, paid_rounds(site)):
                yield str(site.relative_to(home)), run, number


def _forget_addresses(urls: Mapping[str, str]) -> None:
    """The stack finds its ports anew, registers its deployments again, and uses this restore's databases."""
    place = Place.here()
    if place.state.exists():
        state = StackState.load(place)
        replace(state, ports={}, deployed="", external_prefect=None).save(place)
    private_dir(place.folder)
    remember(place, Databases(prefect=urls.get("prefect"), mlflow=urls.get("mlflow")))


def _raise_journals(home: Path, manifest: Manifest, url: str | None) -> dict[str, tuple[str, ...]]:
    """Raise each federation's numbers; returns its sites whose users the store does not know any more."""
    outside = {}
    for federation in manifest.federations:
        file = f"sqlite:///{home / 'coordinator' / federation / 'journal.db'}"
        with closing(Journal(federation, url or file)) as journal:
            skip_journal(journal, manifest.taken, manifest.home, home)
            roster = journal.roster()
        there = {path.name for path in (home / "simulated" / federation).glob("*")}
        if left := tuple(site for site in _site_names(roster) if site not in there):
            outside[federation] = left
    return outside


def _site_names(roster: str | None) -> tuple[str, ...]:
    from fedllm.protocol.messages import Roster

    return tuple(site.name for site in Roster.model_validate_json(roster).sites) if roster else ()

"""Restore an archive into an empty home: verify it, restore all or nothing, and advance its counters."""

import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm.backup.counters import advance_journal, advance_memory
from fedllm.backup.databases import refuse_unfit
from fedllm.backup.inventory import site_homes
from fedllm.backup.ledger_places import refuse_lost_ledgers
from fedllm.backup.ledgers import Retired, charged_rounds, retire_ledgers, unreadable_sites
from fedllm.backup.manifest import Manifest
from fedllm.backup.reading import verify
from fedllm.backup.stores import missing_objects, refuse_non_empty, stores_to_fill
from fedllm.backup.unpack import Unpacking
from fedllm.config import fedllm_home
from fedllm.config.home import RESTORING, private_dir
from fedllm.disk import refuse_without_room, room, sync_folder
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.endpoints.state import StackState
from fedllm.errors import BackupError, ConfigError
from fedllm.journal.journal import Journal
from fedllm.postgres_address import is_postgres
from fedllm.stack.databases import VARIABLES, Databases, database_url, remember

if TYPE_CHECKING:
    from fedllm.backup.objects import BackupStore

Progress = Callable[[str], None]

_SPARED = {"cache"}  # allowed in an empty home: it can be rebuilt, but that may take an hour
_JOURNAL = "FEDLLM_JOURNAL_URL"


@dataclass(frozen=True)
class Restored:
    """The result of a restore."""

    manifest: Manifest
    objects: int  # written to stores
    retired: tuple[Retired, ...]  # trainings with privacy that cannot continue
    outside: dict[str, tuple[str, ...]]  # federation -> sites elsewhere, which need new invitations
    given_up: tuple[tuple[str, str, int], ...] = ()  # site's folder, run, round: charged, and perhaps sent
    unread: tuple[str, ...] = ()  # folders of sites whose site.yaml cannot be read
    missing: tuple[str, ...] = ()  # keys of the archive that untouched external stores do not have


def restore(  # noqa: PLR0913 - the operator's options
    archive: Path,
    *,
    identity: Path | None = None,
    keep_objects: bool = False,
    nothing_spent: bool = False,
    stores: Collection[str] = (),
    progress: Progress = lambda _: None,
) -> Restored:
    """Restore a backup into `$FEDLLM_HOME`, which must be empty.

    Args:
        archive: an archive of `create_backup`.
        identity: file of the age identity that opens a sealed archive.
        keep_objects: leave the objects of external stores untouched.
        nothing_spent: the owner's statement that no training with privacy ran after the backup.
        stores: folders (`file:///…`) that objects may be written to: an archive alone must not choose one.
        progress: called with a line for each part.

    Raises:
        ConfigError: the home is not empty, before or after the archive is verified; the address or keys of a
            database or store are not set; or an address is set for a database that was a SQLite file.
        BackupError: the archive is damaged, a store or database to restore into is not empty, or a privacy
            ledger cannot be restored safely.
        DiskFullError: the home's disk has no room.
    """
    home = fedllm_home()
    _refuse_filled_home(home)
    manifest = verify(archive, identity)
    progress(f"{archive} is whole: {len(manifest.members)} members, {manifest.size / 1e6:.1f} MB")
    refuse_without_room(home, manifest.room, "restore again")
    urls = _database_urls(manifest)
    for url in urls.values():
        refuse_unfit(url)
    external: dict[str, BackupStore] = {}
    missing: tuple[str, ...] = ()
    if keep_objects:
        missing = missing_objects(manifest, progress)
    else:
        external = stores_to_fill(manifest, stores)
    for store in external.values():
        refuse_non_empty(store)
    with _filling(home, progress) as scratch:
        unpacking = Unpacking(archive, identity, manifest, scratch, external)
        try:
            unpacking.files(home)
            # Before any slow step: a process that reads these files must not spend the budget twice.
            refuse_lost_ledgers(home, manifest)
            retired = () if nothing_spent else tuple(retire_ledgers(home))
            # Also with nothing_spent: the backup read the memory before the ledger.
            given_up = tuple(_advance_memories(home, manifest.taken))
            unread = tuple(unreadable_sites(home))
            _reset_addresses(urls)
            unpacking.databases(urls)
            outside = _advance_journals(home, manifest, urls.get("journal"))
            progress("files and databases are back")
            count = unpacking.objects(home, progress)
        except BaseException:
            unpacking.undo()
            raise
    return Restored(manifest, count, retired, outside, given_up, unread, missing)


def _refuse_filled_home(home: Path, *, but: Collection[str] = ()) -> None:
    if home.exists() and (names := sorted({path.name for path in home.iterdir()} - _SPARED - {*but})):
        raise ConfigError(f"{home} is not empty ({names[0]}): restore into an empty folder with --into")


def _database_urls(manifest: Manifest) -> dict[str, str]:
    """Return the address that each Postgres dump is restored to, from the environment."""
    given = {"journal": os.environ.get(_JOURNAL) or None} | {name: database_url(name) for name in VARIABLES}
    urls: dict[str, str] = {}
    for name, url in given.items():
        variable = VARIABLES.get(name, _JOURNAL)
        if name not in manifest.databases:
            if url is not None:  # the next `up` or training would start with an empty database
                raise ConfigError(f"the archive holds no dump of {name}: unset {variable} to restore it")
        elif url is None or not is_postgres(url):
            raise ConfigError(f"{name} was in a Postgres: name an empty database for it in {variable}")
        else:
            urls[name] = url
    return urls


@contextmanager
def _filling(home: Path, progress: Progress) -> Iterator[Path]:
    """Claim the home for the block and yield a temporary folder in it; empty the home if the block fails."""
    with room(home, "restore again"), _claimed(home, progress):
        try:
            with tempfile.TemporaryDirectory(prefix=".restoring-", dir=home) as scratch:
                yield Path(scratch)
            StackPaths(home).restored.touch(mode=0o600)
            os.sync()  # all must be on disk before the marker goes: without it the home counts as complete
        except BaseException:
            for path in home.iterdir():
                if path.name not in {RESTORING, *_SPARED}:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            _unmark(home)
            raise
        _unmark(home)


@contextmanager
def _claimed(home: Path, progress: Progress) -> Iterator[None]:
    """Mark the home as being restored and take the stack's lock; check again that the home is empty.

    Every command refuses a home with the marker file, which stays until `_unmark`, also if the restore is
    killed. An `up` that started before waits for the stack's lock.
    """
    marker = home / RESTORING
    try:
        private_dir(home).chmod(0o700)  # the folder may exist, with a cache
        os.close(os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        raise ConfigError(f"another restore has begun to fill {home}: let it end") from None
    except OSError as error:
        raise BackupError(f"cannot restore into {home}: {error.strerror}") from None
    with ExitStack() as held:
        try:
            sync_folder(home)
            _refuse_filled_home(home, but={RESTORING})
            place = StackPaths(private_dir(home / "stack").parent)
            held.enter_context(place.lock(progress))
            _refuse_begun_stack(place)
        except BaseException:
            _unmark(home)
            raise
        yield


def _refuse_begun_stack(place: StackPaths) -> None:
    if {path.name for path in place.folder.iterdir()} != {"lock"}:
        raise ConfigError(f"`fedllm up` has begun in {place.home}: restore into an empty folder with --into")


def _unmark(home: Path) -> None:
    (home / RESTORING).unlink(missing_ok=True)
    sync_folder(home)


def _advance_memories(home: Path, taken: float) -> Iterator[tuple[str, str, int]]:
    """Advance each site's counters; yield (site, run, round) of each round that it gives up."""
    for site in site_homes(home):
        if (site / "memory.db").exists():
            for run, number in advance_memory(site, taken, charged_rounds(site)):
                yield str(site.relative_to(home)), run, number


def _reset_addresses(urls: Mapping[str, str]) -> None:
    """Make the next `up` choose ports, register the deployments again, and use the restored databases."""
    place = StackPaths.here()
    if place.state.exists():
        state = StackState.load(place)
        replace(state, ports={}, deployed="", external_prefect=None).save(place)
    private_dir(place.folder)
    remember(place, Databases(prefect=urls.get("prefect"), mlflow=urls.get("mlflow")))


def _advance_journals(home: Path, manifest: Manifest, url: str | None) -> dict[str, tuple[str, ...]]:
    """Advance each federation's counters; return its sites elsewhere, unknown to the restored store."""
    outside = {}
    for federation in manifest.federations:
        file = f"sqlite:///{home / 'coordinator' / federation / 'journal.db'}"
        with closing(Journal(federation, url or file)) as journal:
            advance_journal(journal, manifest.taken, manifest.home, home)
            roster = journal.roster()
        simulated = {path.name for path in (home / "simulated" / federation).glob("*")}
        if elsewhere := tuple(site for site in _site_names(roster) if site not in simulated):
            outside[federation] = elsewhere
    return outside


def _site_names(roster: str | None) -> tuple[str, ...]:
    from fedllm.protocol.messages import Roster

    return tuple(site.name for site in Roster.model_validate_json(roster).sites) if roster else ()

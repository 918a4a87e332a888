"""Takes a backup, also while a training runs: what refers to something is read before what it refers to."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from fedllm.backup.archive import ArchiveWriter, written
from fedllm.backup.databases import dump_postgres
from fedllm.backup.inventory import Turn, site_homes
from fedllm.backup.journals import read_journals
from fedllm.backup.ledger_places import odd_ledgers, refuse_unkept_ledgers
from fedllm.backup.ledgers import is_ledger, marks
from fedllm.backup.manifest import DATABASES, HOME, LedgerMark, Manifest
from fedllm.backup.needs import Journalled
from fedllm.backup.objects import Shelf
from fedllm.backup.records import record_files
from fedllm.backup.staging import Staged, staging_folder
from fedllm.backup.stores import local_shelves, own_buckets
from fedllm.config import FederationConfig
from fedllm.config.home import refuse_half_restored
from fedllm.disk import room
from fedllm.endpoints.place import Place
from fedllm.endpoints.state import StackState
from fedllm.errors import ConfigError
from fedllm.stack.databases import databases

Progress = Callable[[str], None]


def take_backup(
    out: Path,
    *,
    recipients: Sequence[str] = (),
    keys: bool = True,
    configs: Sequence[FederationConfig] = (),
    progress: Progress = lambda _: None,
) -> Manifest:
    """Write everything that this home is made of into one archive of mode 600.

    Args:
        out: the archive, which must not be there yet.
        recipients: age recipients to seal it for; none: it is not encrypted.
        keys: whether private keys and passwords go in.
        configs: federations whose store is not the local stack's and that have not trained yet.
        progress: hears a line for each part, and for what is left out.

    Raises:
        ConfigError: there is nothing to back up, `out` is in the home, or a store's keys are not in the
            environment.
        BackupError: a database is torn or stays locked, a journal is not here, a link leads out of the home,
            a site's ledger is where no backup looks, or the archive cannot be written or read again.
        DiskFullError: the home's disk, or the archive's, has no room.
        ExchangeError: a store does not answer.
    """
    place = Place.here()
    if not place.home.is_dir():
        raise ConfigError(f"{place.home} is not there: nothing to back up")
    if out.resolve().is_relative_to(place.home):
        raise ConfigError(f"{out} is inside {place.home}: keep backups elsewhere, best on another machine")
    refuse_half_restored()
    refuse_unkept_ledgers(place.home, keys=keys)
    taken = time.time()
    with (
        written(out, recipients) as stream,
        room(place.home, "back up again"),
        staging_folder(place.home) as folder,
        ExitStack() as stack,
    ):
        staged = Staged(folder, place.home, keys)
        staged.copy(Turn.SITE_MEMORY, Turn.SITE_FILE)
        local = stack.enter_context(local_shelves(own_buckets(), say=progress))
        journalled, shelves, lost = read_journals(staged, local, configs, progress)
        staged.copy(Turn.LEDGER)
        dumps = _other_databases(staged, place)
        staged.copy(Turn.OTHER)
        progress("databases and files are read")
        ledgers = tuple(_ledgers(staged))
        archive = ArchiveWriter(stream)
        for name, path in staged.files.items():
            archive.add(name, path, path.stat().st_mode & 0o755)
        _add_objects(archive, staged, shelves, progress)
        manifest = Manifest(
            fedllm=version("fedllm"),
            taken=taken,
            home=str(place.home),
            keys=keys,
            federations=journalled.marks,
            ledgers=ledgers,
            databases=dumps,
            buckets=tuple(shelf.bucket for shelf in shelves),
            objects=tuple(staged.objects.values()),
            members=tuple(archive.members),
            lost=lost,
        )
        archive.finish(manifest)
        for line in _left_out(place, journalled):
            progress(line)
    return manifest


def _other_databases(staged: Staged, place: Place) -> tuple[str, ...]:
    """MLflow's database, then Prefect's; returns which of all databases are dumps of Postgres."""
    dumps = ["journal"] if f"{DATABASES}journal.dump" in staged.files else []
    urls = databases(place, keep=False)
    for name, turn, url in (("mlflow", Turn.MLFLOW, urls.mlflow), ("prefect", Turn.PREFECT, urls.prefect)):
        staged.copy(turn)
        if url is not None:
            target = staged.folder / f"{name}.dump"
            dump_postgres(url, target)
            staged.files[f"{DATABASES}{name}.dump"] = target
            dumps.append(name)
    return tuple(dumps)


def _add_objects(archive: ArchiveWriter, staged: Staged, shelves: Sequence[Shelf], say: Progress) -> None:
    """Every object, one at a time on this disk."""
    early = {(stored.folder, stored.key) for stored in staged.objects.values()}
    for shelf in shelves:
        count = 0
        for key in shelf.keys():  # noqa: SIM118 - no mapping
            if (shelf.bucket.folder, key) in early or (found := staged.fetch(shelf, key)) is None:
                continue
            stored, path = found
            archive.add(stored.member, path)
            path.unlink()
            count += 1
        say(f"{count} objects of {shelf.bucket.url} are read")


def _ledgers(staged: Staged) -> Iterable[LedgerMark]:
    """The newest entry of every chain."""
    for name, path in staged.files.items():
        if name.startswith(HOME) and is_ledger(path):
            yield from marks(path, name.removeprefix(HOME))


def _left_out(place: Place, told: Journalled) -> Iterable[str]:
    """What belongs to this home's federations and is not in the archive."""
    homes = site_homes(place.home)
    here = {site.name for site in homes}
    for federation, sites in sorted(told.sites.items()):
        if away := [site for site in sites if site not in here]:
            yield f"not in it: the sites of {federation} that live elsewhere ({', '.join(away)})"
    yield from odd_ledgers(place.home)
    for name, site in record_files(place.home).items():
        yield f"not in it: the records of {site}, {place.home / name}: put them back after a restore"
    for federation, config in sorted(told.configs.items()):
        if config.tracking.uri != "auto":
            yield f"not in it: the MLflow of {federation}, {config.tracking.uri}"
    if (prefect := StackState.load(place).external_prefect) is not None:
        yield f"not in it: the Prefect at {prefect}"

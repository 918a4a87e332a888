"""Create a backup, also during a training: a part that refers to another is read before that other."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from fedllm.backup.archive import ArchiveWriter, new_archive
from fedllm.backup.databases import dump_postgres
from fedllm.backup.inventory import ReadOrder, site_homes
from fedllm.backup.journals import read_journals
from fedllm.backup.ledger_places import ledger_notes, refuse_unkept_ledgers
from fedllm.backup.ledgers import is_ledger, marks
from fedllm.backup.manifest import DATABASES, HOME, LedgerMark, Manifest
from fedllm.backup.needs import JournalContents
from fedllm.backup.objects import BackupStore
from fedllm.backup.records import record_files
from fedllm.backup.staging import Staged, staging_folder
from fedllm.backup.stores import local_stores, own_buckets
from fedllm.config import FederationConfig
from fedllm.config.home import refuse_half_restored
from fedllm.disk import room
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.endpoints.state import StackState
from fedllm.errors import ConfigError
from fedllm.stack.databases import databases

Progress = Callable[[str], None]


def create_backup(
    out: Path,
    *,
    recipients: Sequence[str] = (),
    keys: bool = True,
    configs: Sequence[FederationConfig] = (),
    progress: Progress = lambda _: None,
) -> Manifest:
    """Back up this home and its stores into one archive of mode 600, and return the list of contents.

    Args:
        out: path of the archive, which must not exist.
        recipients: age recipients to seal the archive for; without any it is not encrypted.
        keys: whether to include private keys and passwords.
        configs: federations with an external store that have not trained yet.
        progress: called with a line for each part and for each omission.

    Raises:
        ConfigError: the home does not exist, `out` is inside it, or a store's keys are not set.
        BackupError: a database is damaged or stays locked, a journal is missing, a file to keep is a link, a
            site's ledger has an excluded path, or the archive cannot be written.
        DiskFullError: the disk of the home or of the archive has no room.
        ExchangeError: a store does not answer.
    """
    place = StackPaths.here()
    if not place.home.is_dir():
        raise ConfigError(f"{place.home} is not there: nothing to back up")
    if out.resolve().is_relative_to(place.home):
        raise ConfigError(f"{out} is inside {place.home}: keep backups elsewhere, best on another machine")
    refuse_half_restored()
    refuse_unkept_ledgers(place.home, keys=keys)
    taken = time.time()
    with (
        new_archive(out, recipients) as stream,
        room(place.home, "back up again"),
        staging_folder(place.home) as folder,
        ExitStack() as stack,
    ):
        staged = Staged(folder, place.home, keys)
        staged.copy(ReadOrder.SITE_MEMORY, ReadOrder.SITE_FILE)
        local = stack.enter_context(local_stores(own_buckets(), say=progress))
        contents, stores, lost = read_journals(staged, local, configs, progress)
        staged.copy(ReadOrder.LEDGER)
        dumps = _other_databases(staged, place)
        staged.copy(ReadOrder.OTHER)
        progress("databases and files are read")
        ledgers = tuple(_ledgers(staged))
        archive = ArchiveWriter(stream)
        for name, path in staged.files.items():
            archive.add(name, path, path.stat().st_mode & 0o755)
        _add_objects(archive, staged, stores, progress)
        manifest = Manifest(
            fedllm=version("fedllm"),
            taken=taken,
            home=str(place.home),
            keys=keys,
            federations=contents.marks,
            ledgers=ledgers,
            databases=dumps,
            buckets=tuple(store.bucket for store in stores),
            objects=tuple(staged.objects.values()),
            members=tuple(archive.members),
            lost=lost,
        )
        archive.finish(manifest)
        for line in _omissions(place, contents):
            progress(line)
    return manifest


def _other_databases(staged: Staged, place: StackPaths) -> tuple[str, ...]:
    """Stage MLflow's database, then Prefect's; return the names of all staged Postgres dumps."""
    dumps = ["journal"] if f"{DATABASES}journal.dump" in staged.files else []
    urls = databases(place, keep=False)
    parts = (("mlflow", ReadOrder.MLFLOW, urls.mlflow), ("prefect", ReadOrder.PREFECT, urls.prefect))
    for name, order, url in parts:
        staged.copy(order)
        if url is not None:
            target = staged.folder / f"{name}.dump"
            dump_postgres(url, target)
            staged.files[f"{DATABASES}{name}.dump"] = target
            dumps.append(name)
    return tuple(dumps)


def _add_objects(
    archive: ArchiveWriter, staged: Staged, stores: Sequence[BackupStore], say: Progress
) -> None:
    """Add every object that is not staged yet, with one at a time on this disk."""
    done = {(stored.folder, stored.key) for stored in staged.objects.values()}
    for store in stores:
        count = 0
        for key in store.keys():  # noqa: SIM118 - no mapping
            if (store.bucket.folder, key) in done or (fetched := staged.fetch(store, key)) is None:
                continue
            stored, path = fetched
            archive.add(stored.member, path)
            path.unlink()
            count += 1
        say(f"{count} objects of {store.bucket.url} are read")


def _ledgers(staged: Staged) -> Iterable[LedgerMark]:
    """Yield the newest entry of every staged ledger chain."""
    for name, path in staged.files.items():
        if name.startswith(HOME) and is_ledger(path):
            yield from marks(path, name.removeprefix(HOME))


def _omissions(place: StackPaths, contents: JournalContents) -> Iterable[str]:
    """Yield a line for each part of this home's federations that is not in the archive."""
    local = {site.name for site in site_homes(place.home)}
    for federation, sites in sorted(contents.sites.items()):
        if away := [site for site in sites if site not in local]:
            yield f"not in it: the sites of {federation} that live elsewhere ({', '.join(away)})"
    yield from ledger_notes(place.home)
    for name, site in record_files(place.home).items():
        yield f"not in it: the records of {site}, {place.home / name}: put them back after a restore"
    for federation, config in sorted(contents.configs.items()):
        if config.tracking.uri != "auto":
            yield f"not in it: the MLflow of {federation}, {config.tracking.uri}"
    if (prefect := StackState.load(place).external_prefect) is not None:
        yield f"not in it: the Prefect at {prefect}"

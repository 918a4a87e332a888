"""Takes a backup, also while a training runs: what refers to something is read before what it refers to."""

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from fedllm.backup.archive import ArchiveWriter, written
from fedllm.backup.databases import copy_sqlite, dump_postgres, is_postgres, snapshot
from fedllm.backup.inventory import Turn, files, is_database
from fedllm.backup.manifest import DATABASES, HOME, LedgerMark, Manifest, StoredObject
from fedllm.backup.needs import Journalled, Need, read_journal
from fedllm.backup.objects import Shelf
from fedllm.backup.stores import buckets_of, foreign_shelf, local_shelves, own_buckets
from fedllm.config import FederationConfig
from fedllm.errors import BackupError, ConfigError
from fedllm.privacy.entry import Entry
from fedllm.stack.databases import databases
from fedllm.stack.place import Place

Progress = Callable[[str], None]

_TRIES = 20  # rounds that end while their updates are read


@dataclass
class _Staged:
    """What was read so far, in a folder that is deleted afterwards."""

    folder: Path
    home: Path
    files: dict[str, Path] = field(default_factory=dict)  # archive name -> copy
    objects: dict[str, StoredObject] = field(default_factory=dict)  # archive name -> what S3 knows of it

    def copy(self, name: str) -> None:
        """Copy a file of the home; one that is gone meanwhile is passed over."""
        target = self.folder / HOME / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        source = self.home / name
        with suppress(FileNotFoundError):
            if is_database(source):
                copy_sqlite(source, target)
            else:
                shutil.copyfile(source, target)
                target.chmod(source.stat().st_mode & 0o755)
            self.files[HOME + name] = target

    def forget(self, names: Iterable[str]) -> None:
        """Drop copies that are taken anew."""
        for name in names:
            path = self.files.pop(HOME + name, None)
            if path is not None:
                path.unlink()

    def fetch(self, shelf: Shelf, key: str) -> StoredObject | None:
        """Read an object."""
        path = self.folder / "object"
        path.unlink(missing_ok=True)
        stored = shelf.fetch(key, path)
        if stored is None:
            return None
        kept = self.folder / f"object-{len(self.objects)}"
        path.rename(kept)
        self.files[stored.member], self.objects[stored.member] = kept, stored
        return stored


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
        progress: hears a line for each part.

    Raises:
        ConfigError: there is nothing to back up, `out` is in the home, or a store's keys are not in the
            environment.
        BackupError: a database is torn, or the archive cannot be written.
        ExchangeError: a store does not answer.
    """
    place = Place.here()
    if not place.home.is_dir():
        raise ConfigError(f"{place.home} is not there: nothing to back up")
    if out.resolve().is_relative_to(place.home):
        raise ConfigError(f"{out} is inside {place.home}: keep backups elsewhere, best on another machine")
    taken = time.time()
    scratch = Path(tempfile.mkdtemp(prefix=".fedllm-backup-", dir=out.resolve().parent))
    try:
        with written(out, recipients) as stream, ExitStack() as stack:
            staged = _Staged(scratch, place.home)
            _copy(staged, keys, {Turn.SITE_MEMORY, Turn.SITE_FILE})
            shelves = stack.enter_context(local_shelves(own_buckets()))
            journalled, shelves = _consistent(staged, keys, list(shelves), configs, progress)
            _copy(staged, keys, {Turn.LEDGER})
            given = _other_databases(staged, keys, place)
            _copy(staged, keys, {Turn.OTHER})
            progress("databases and files are read")
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
                ledgers=tuple(_ledgers(staged)),
                databases=given,
                buckets=tuple(shelf.bucket for shelf in shelves),
                objects=tuple(staged.objects.values()),
                members=tuple(archive.members),
            )
            archive.finish(manifest)
        return manifest
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _copy(staged: _Staged, keys: bool, turns: set[Turn]) -> None:
    for turn, name in files(staged.home, keys=keys):
        if turn in turns:
            staged.copy(name)


def _consistent(
    staged: _Staged, keys: bool, local: list[Shelf], configs: Sequence[FederationConfig], progress: Progress
) -> tuple[Journalled, list[Shelf]]:
    """Journal and coordinator's files, and the updates of open rounds that the journal leads to.

    A round that ends meanwhile destroys its updates: then all of it is read again, a round further on.
    """
    for _ in range(_TRIES):
        staged.forget([name for turn, name in files(staged.home, keys=keys) if turn == Turn.COORDINATOR_FILE])
        journalled = _journals(staged, keys)
        _copy(staged, keys, {Turn.COORDINATOR_FILE})
        own = {config.name: config for config in (*configs, *journalled.configs.values())}
        shelves = [*local, *(foreign_shelf(bucket) for bucket in buckets_of(own.values()))]
        if all(_satisfied(staged, need, own, shelves) for need in journalled.needs):
            progress("the journal is read")
            return journalled, shelves
    raise BackupError("rounds end faster than their updates can be read: back up between trainings")


def _journals(staged: _Staged, keys: bool) -> Journalled:
    """Copy the journals, and read what they tell from the very state that was copied."""
    url = os.environ.get("FEDLLM_JOURNAL_URL")
    if url and is_postgres(url):
        target = staged.folder / "journal.dump"
        target.unlink(missing_ok=True)
        with snapshot(url) as (connection, name):
            dump_postgres(url, target, name)
            staged.files[f"{DATABASES}journal.dump"] = target
            return read_journal(connection)
    names = [name for turn, name in files(staged.home, keys=keys) if turn == Turn.JOURNAL]
    told = Journalled({}, {}, ())
    for name in names:
        staged.copy(name)
        with snapshot(f"sqlite:///{staged.files[HOME + name]}") as (connection, _):
            more = read_journal(connection)
        told = Journalled(told.marks | more.marks, told.configs | more.configs, (*told.needs, *more.needs))
    return told


def _satisfied(staged: _Staged, need: Need, own: dict[str, FederationConfig], shelves: list[Shelf]) -> bool:
    """Whether an open round's update is in the backup."""
    kept = f"{HOME}coordinator/{need.federation}/runs/{need.run}/{need.kept}"
    if kept in staged.files or any(stored.key == need.key for stored in staged.objects.values()):
        return True
    local = own[need.federation].store.url == "auto"
    folder = "fedllm" if local else f"of-{need.federation}"
    shelf = next((shelf for shelf in shelves if shelf.bucket.folder == folder), None)
    return shelf is not None and staged.fetch(shelf, need.key) is not None


def _other_databases(staged: _Staged, keys: bool, place: Place) -> tuple[str, ...]:
    """MLflow's database, then Prefect's; returns which of all databases are dumps of Postgres."""
    given = ["journal"] if f"{DATABASES}journal.dump" in staged.files else []
    urls = databases(place)
    for name, turn, url in (("mlflow", Turn.MLFLOW, urls.mlflow), ("prefect", Turn.PREFECT, urls.prefect)):
        _copy(staged, keys, {turn})
        if url is not None:
            target = staged.folder / f"{name}.dump"
            dump_postgres(url, target)
            staged.files[f"{DATABASES}{name}.dump"] = target
            given.append(name)
    return tuple(given)


def _add_objects(archive: ArchiveWriter, staged: _Staged, shelves: list[Shelf], progress: Progress) -> None:
    """Every object, one at a time on this disk."""
    early = {(stored.folder, stored.key) for stored in staged.objects.values()}
    for shelf in shelves:
        count = 0
        keys = shelf.keys()
        for key in keys:
            if (shelf.bucket.folder, key) in early:
                continue
            stored = staged.fetch(shelf, key)
            if stored is not None:
                path = staged.files.pop(stored.member)
                archive.add(stored.member, path)
                path.unlink()
                count += 1
        progress(f"{count} objects of {shelf.bucket.url} are read")


def _ledgers(staged: _Staged) -> Iterable[LedgerMark]:
    """The newest entry of every chain."""
    for name, path in staged.files.items():
        if name.startswith(f"{HOME}simulated/") and name.endswith("/ledger.db"):
            with closing(sqlite3.connect(path)) as db:
                rows = db.execute("select dataset, max(seq), entry from entry group by dataset").fetchall()
            for dataset, seq, body in rows:
                home = name.removeprefix(HOME).rpartition("/")[0]
                yield LedgerMark(
                    home=home, dataset=dataset, seq=seq, sha256=Entry.model_validate_json(body).sha256
                )

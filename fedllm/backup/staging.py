"""Stage a backup's copies in a folder of the home itself, since they include private keys."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from fedllm.backup.databases import copy_sqlite
from fedllm.backup.inventory import ReadOrder, files, is_database
from fedllm.backup.manifest import HOME, StoredObject
from fedllm.backup.objects import BackupStore
from fedllm.backup.records import record_files
from fedllm.disk import is_full
from fedllm.errors import BackupError

_PREFIX = ".backup-"
# A site's records may only be here: a site file must not name a database as its records.
_WITH_RECORDS = {ReadOrder.SITE_FILE, ReadOrder.OTHER}


@contextmanager
def staging_folder(home: Path) -> Iterator[Path]:
    """Create a folder of mode 700 in the home and delete it on exit; first delete those of killed backups.

    The home is as private as its files, while anybody may read the disk that the archive goes to.
    """
    for left in home.glob(f"{_PREFIX}*"):
        with suppress(OSError), _locked(left):
            shutil.rmtree(left, ignore_errors=True)
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=home))
    except OSError as error:
        if is_full(error):
            raise
        raise BackupError(f"cannot write in {home}: {error.strerror}") from None
    with _locked(folder):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder until exit or the end of this process. Raises `OSError` if another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@dataclass
class Staged:
    """The copies of a backup, by member name."""

    folder: Path
    home: Path
    keys: bool  # whether to include private keys and passwords
    files: dict[str, Path] = field(default_factory=dict)  # member name -> copy
    objects: dict[str, StoredObject] = field(default_factory=dict)  # member name -> metadata in S3
    _fetched: int = 0

    def copy(self, *orders: ReadOrder) -> None:
        """Copy the home's files with these places in the read order."""
        for name in self.names(*orders):
            self.copy_file(name)

    def names(self, *orders: ReadOrder) -> list[str]:
        """List the home's files with these places in the read order, without sites' records."""
        records = record_files(self.home) if _WITH_RECORDS & {*orders} else {}
        return [
            name
            for order, name in files(self.home, keys=self.keys)
            if order in orders and not (order in _WITH_RECORDS and name in records)
        ]

    def copy_file(self, name: str) -> None:
        """Copy a file of the home; skip it if it was deleted meanwhile.

        Raises:
            BackupError: the file cannot be read, or is a database that is damaged or stays locked.
            DiskFullError: the disk has no room for the copy.
        """
        target, source = self.folder / HOME / name, self.home / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            if is_database(source):
                copy_sqlite(source, target)
            else:
                shutil.copyfile(source, target)
                target.chmod(source.stat().st_mode & 0o755)
        except FileNotFoundError:
            self.files.pop(HOME + name, None)  # the copy of an earlier reading, deleted above
            return
        except BackupError:  # a database that cannot be opened
            if source.exists():
                raise
            target.unlink(missing_ok=True)
            self.files.pop(HOME + name, None)
            return
        except OSError as error:
            if is_full(error):
                raise
            raise BackupError(f"{source} cannot be copied: {error.strerror or error}") from None
        self.files[HOME + name] = target

    def discard(self, names: Iterable[str]) -> None:
        """Delete copies by member name."""
        for name in names:
            self.files.pop(name).unlink()
            self.objects.pop(name, None)

    def fetch(self, store: BackupStore, key: str) -> tuple[StoredObject, Path] | None:
        """Copy an object and return its metadata and path; None if it was deleted meanwhile."""
        self._fetched += 1
        path = self.folder / f"object-{self._fetched}"
        stored = store.fetch(key, path)
        if stored is None:
            return None
        self.objects[stored.member] = stored
        return stored, path

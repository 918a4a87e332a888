"""What a backup has read so far: copies in a folder of the home itself, since private keys are among them."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from fedllm.backup.databases import copy_sqlite
from fedllm.backup.inventory import Turn, files, is_database
from fedllm.backup.manifest import HOME, StoredObject
from fedllm.backup.objects import Shelf
from fedllm.backup.records import record_files
from fedllm.disk import is_full
from fedllm.errors import BackupError

_PREFIX = ".backup-"
_WITH_RECORDS = {Turn.SITE_FILE, Turn.OTHER}  # a site file that names a database as its records is wrong


@contextmanager
def staging_folder(home: Path) -> Iterator[Path]:
    """A folder of mode 700 in the home that is deleted in the end; what a killed backup left goes first.

    The home is as private as what goes into it; where the archive goes may be anybody's disk.
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
    """Hold a folder as long as this process lives. Raises `OSError` where another one holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@dataclass
class Staged:
    """Copies by their names in the archive."""

    folder: Path
    home: Path
    keys: bool  # whether private keys and passwords are wanted
    files: dict[str, Path] = field(default_factory=dict)  # archive name -> copy
    objects: dict[str, StoredObject] = field(default_factory=dict)  # archive name -> what S3 knows of it
    _fetched: int = 0

    def copy(self, *turns: Turn) -> None:
        """Copy the home's files whose turn it is."""
        for name in self.names(*turns):
            self.copy_file(name)

    def names(self, *turns: Turn) -> list[str]:
        """The home's files whose turn it is, by their paths below it; sites' records are not among them."""
        records = record_files(self.home) if _WITH_RECORDS & {*turns} else {}
        return [
            name
            for turn, name in files(self.home, keys=self.keys)
            if turn in turns and not (turn in _WITH_RECORDS and name in records)
        ]

    def copy_file(self, name: str) -> None:
        """Copy a file of the home; one that is gone meanwhile is passed over.

        Raises:
            BackupError: it cannot be read, or is a database that is torn or stays locked.
            DiskFullError: no room for the copy.
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
            self.files.pop(HOME + name, None)  # of an earlier reading, deleted above
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

    def forget(self, names: Iterable[str]) -> None:
        """Drop copies, by their names in the archive."""
        for name in names:
            self.files.pop(name).unlink()
            self.objects.pop(name, None)

    def fetch(self, shelf: Shelf, key: str) -> tuple[StoredObject, Path] | None:
        """Read an object; None when it was deleted meanwhile."""
        self._fetched += 1
        path = self.folder / f"object-{self._fetched}"
        stored = shelf.fetch(key, path)
        if stored is None:
            return None
        self.objects[stored.member] = stored
        return stored, path

"""Report full disks with one error that names the folder and the remedy; write files atomically."""

import errno
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fedllm.errors import DiskFullError

_ERRNO = {errno.ENOSPC, errno.EDQUOT}
# SQLite's errors when it cannot grow the database, its log, or the shared-memory file.
_SQLITE = {"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_SHMMAP"}


def is_full(error: BaseException) -> bool:
    """Return whether an error means that a disk is full."""
    cause = getattr(error, "orig", error)  # SQLAlchemy's errors wrap the driver's; it is slow to import
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorname", "") in _SQLITE
    return isinstance(error, DiskFullError) or (isinstance(error, OSError) and error.errno in _ERRNO)


@contextmanager
def room(folder: Path, then: str) -> Iterator[None]:
    """Raise `DiskFullError` if the block fails because a disk is full.

    Args:
        folder: the folder that the block writes to.
        then: what the user should do once there is space; part of the error's text.

    Raises:
        DiskFullError: the disk is full.
    """
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        raise DiskFullError(f"the disk of {folder} is full: make space, then {then}") from error


def refuse_without_room(folder: Path, size: int, then: str) -> None:
    """Check that a disk has room.

    Args:
        folder: the folder to be written to; it need not exist yet.
        size: bytes needed.
        then: what the user should do once there is space; part of the error's text.

    Raises:
        DiskFullError: the folder's disk has less.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < size:
        raise DiskFullError(
            f"the disk of {folder} has {free / 1e9:.1f} GB left, and {size / 1e9:.1f} GB are needed: "
            f"make space, then {then}"
        )


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries to disk, so that new and renamed files survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Open a new file that replaces `path` durably when the block ends without an exception.

    Until then its name begins with `.part-`; an exception in the block removes it.

    Args:
        path: the file to replace; its folder must exist.
        mode: of the new file; its permissions are never wider.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")  # mode 600
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            if mode != 0o600:  # noqa: PLR2004 - the mode that mkstemp sets
                os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(name).replace(path)
        sync_folder(path.parent)  # else a power cut may undo the rename
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def write_whole(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write `data` to `path` atomically; see `replacing`."""
    with replacing(path, mode) as file:
        file.write(data)

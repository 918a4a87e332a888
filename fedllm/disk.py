"""A disk: one error for one without room, that says which and what to do; files whole or not at all."""

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
# SQLite meets a full disk as it grows the database or its log, or the shared file beside them.
_SQLITE = {"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_SHMMAP"}


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk has no room."""
    cause = getattr(error, "orig", error)  # SQLAlchemy's errors wrap the driver's; it is slow to import
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorname", "") in _SQLITE
    return isinstance(error, DiskFullError) or (isinstance(error, OSError) and error.errno in _ERRNO)


@contextmanager
def room(folder: Path, then: str) -> Iterator[None]:
    """Name a disk that fills up inside the block.

    Args:
        folder: what is written to.
        then: what to do once there is space, as the error says it.

    Raises:
        DiskFullError: there is no room.
    """
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        raise DiskFullError(f"the disk of {folder} is full: make space, then {then}") from error


def refuse_without_room(folder: Path, size: int, then: str) -> None:
    """Look before one writes.

    Args:
        folder: what would be written to; it need not be there yet.
        size: bytes that are to fit.
        then: what to do once there is space, as the error says it.

    Raises:
        DiskFullError: its disk has less.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < size:
        raise DiskFullError(
            f"the disk of {folder} has {free / 1e9:.1f} GB left, and {size / 1e9:.1f} GB are needed: "
            f"make space, then {then}"
        )


def sync_folder(folder: Path) -> None:
    """Have the names in a folder last, not only the files' bytes."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Open a new file that replaces `path` once the block ends well, and lasts from then on.

    Until then its name begins with `.part-`, and whatever ends the block early removes it.

    Args:
        path: its folder is there.
        mode: of the new file; it is never open to more than that.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")  # of mode 600
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            if mode != 0o600:  # noqa: PLR2004 - what mkstemp gives
                os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(name).replace(path)
        sync_folder(path.parent)  # else a power cut may take the new name back
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def write_whole(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put `data` under `path` whole or not at all; see `replacing`."""
    with replacing(path, mode) as file:
        file.write(data)

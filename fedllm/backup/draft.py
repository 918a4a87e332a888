"""The archive's file while it is written: under a name of its own until all of it is on the disk."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fedllm.disk import is_full, sync_folder
from fedllm.errors import BackupError, ConfigError, DiskFullError, FedllmError

# What a disk without hard links, such as a USB stick's, says.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class Draft:
    """A new file, its owner's alone. It keeps its own first fault: age, which writes to it, would hide it.

    Args:
        out: what it is called once it is whole.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._path = out.with_name(f".{out.name}.{os.getpid()}")
        self._file: BinaryIO | None = None
        self.fault: OSError | None = None

    def open(self) -> None:
        """Begin it."""
        self._path.unlink(missing_ok=True)
        self._file = os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")

    def write(self, data: bytes) -> int:
        """Take all of it; nothing more once it was closed, though a compressor may still have something."""
        assert self._file is not None  # noqa: S101 - opened first
        if self._file.closed:
            return len(data)
        with self.kept():
            return self._file.write(data)

    def flush(self) -> None:
        """Hand on what is buffered."""
        assert self._file is not None  # noqa: S101 - opened first
        with self.kept():
            self._file.flush()

    def publish(self) -> None:
        """Have all of it on the disk, then give it its name; unlike a rename never in another file's place.

        Raises:
            ConfigError: there is such a file by now.
        """
        assert self._file is not None  # noqa: S101 - opened first
        self._file.flush()
        os.fsync(self._file.fileno())
        try:
            os.link(self._path, self._out)
        except FileExistsError:
            raise taken(self._out) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if self._out.exists():
                raise taken(self._out) from None
            self._path.replace(self._out)
        sync_folder(self._out.parent)

    def close(self) -> None:
        """Give the file back, and its first name up."""
        if self._file is not None:
            with suppress(OSError, ValueError):  # what could not be written before cannot be now
                self._file.close()
            with suppress(OSError):
                self._path.unlink()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Note the first fault of the block."""
        try:
            yield
        except OSError as error:
            self.fault = self.fault or error
            raise

    def explained(self) -> FedllmError:
        """What to tell of the fault."""
        assert self.fault is not None  # noqa: S101 - the caller looked
        if is_full(self.fault):
            return DiskFullError(f"the disk of {self._out.parent} is full: make space, then back up again")
        return BackupError(f"cannot write {self._out}: {self.fault.strerror or self.fault}")


def taken(out: Path) -> ConfigError:
    """What to tell of an archive that is there already."""
    return ConfigError(f"{out} is there already: a backup never overwrites another one")

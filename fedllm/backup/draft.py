"""The archive file during writing: it has a temporary name until it is complete on disk."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fedllm.disk import is_full, sync_folder
from fedllm.errors import BackupError, ConfigError, DiskFullError, FedllmError

# Errors of a file system without hard links, such as a USB stick's.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class Draft:
    """A new file of mode 600. Keeps its first OSError, since age, which writes to it, would hide that.

    Args:
        out: final path of the complete file.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._path = out.with_name(f".{out.name}.{os.getpid()}")
        self._file: BinaryIO | None = None
        self.fault: OSError | None = None

    def open(self) -> None:
        """Create the file under its temporary name."""
        self._path.unlink(missing_ok=True)
        self._file = os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")

    def write(self, data: bytes) -> int:
        """Write all of `data`; ignore it after `close`, when a compressor may still flush."""
        assert self._file is not None  # noqa: S101 - opened first
        if self._file.closed:
            return len(data)
        with self.recording_fault():
            return self._file.write(data)

    def flush(self) -> None:
        """Flush the buffer."""
        assert self._file is not None  # noqa: S101 - opened first
        with self.recording_fault():
            self._file.flush()

    def publish(self) -> None:
        """Sync the file to disk, then link it to its final path; unlike a rename, this never overwrites.

        Raises:
            ConfigError: a file with that path exists by now.
        """
        assert self._file is not None  # noqa: S101 - opened first
        self._file.flush()
        os.fsync(self._file.fileno())
        try:
            os.link(self._path, self._out)
        except FileExistsError:
            raise already_exists(self._out) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if self._out.exists():
                raise already_exists(self._out) from None
            self._path.replace(self._out)
        sync_folder(self._out.parent)

    def close(self) -> None:
        """Close the file and remove its temporary name."""
        if self._file is not None:
            with suppress(OSError, ValueError):  # closing flushes: bytes that failed before fail again
                self._file.close()
            with suppress(OSError):
                self._path.unlink()

    @contextmanager
    def recording_fault(self) -> Iterator[None]:
        """Keep the first OSError of the block in `fault`."""
        try:
            yield
        except OSError as error:
            self.fault = self.fault or error
            raise

    def error(self) -> FedllmError:
        """Return the error to raise for `fault`."""
        assert self.fault is not None  # noqa: S101 - the caller checks
        if is_full(self.fault):
            return DiskFullError(f"the disk of {self._out.parent} is full: make space, then back up again")
        return BackupError(f"cannot write {self._out}: {self.fault.strerror or self.fault}")


def already_exists(out: Path) -> ConfigError:
    """Return the error for an archive path that exists."""
    return ConfigError(f"{out} is there already: a backup never overwrites another one")

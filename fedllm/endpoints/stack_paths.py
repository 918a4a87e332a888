"""Paths of the local stack's files."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fedllm.config.home import fedllm_home, private_dir
from fedllm.disk import room, write_whole
from fedllm.errors import StackError

_SOCKET_LIMIT = 90  # bytes; a unix socket's path has at most 107, and supervisord first binds a longer one
_TEMPORARY_LIMIT = 70  # bytes; multiprocessing binds /pymp-12345678/listener-12345678 below the folder


@dataclass(frozen=True)
class StackPaths:
    """The stack's folder, below fedllm's home; readable by its owner alone."""

    home: Path

    @classmethod
    def here(cls) -> Self:
        """Return the place in `$FEDLLM_HOME`. Raises `StackError` if a server cannot take such a path."""
        home = fedllm_home()
        text = str(home)
        if any(char in text for char in "\"'\n,") or " ;" in text or " #" in text:
            raise StackError(f"{text}: the stack cannot live in a folder with such a name: set FEDLLM_HOME")
        return cls(home)

    @property
    def folder(self) -> Path:
        """The folder of all the stack's files."""
        return self.home / "stack"

    @property
    def prefect_home(self) -> Path:
        """Prefect's folder: runs, deployments, logs."""
        return self.folder / "prefect"

    @property
    def minio(self) -> Path:
        """The folder of all buckets."""
        return self.folder / "minio"

    @property
    def ca(self) -> Path:
        """The folder of the private CA and the servers' certificate; `fedllm ca` creates them."""
        return self.home / "ca"

    @property
    def minio_home(self) -> Path:
        """HOME of MinIO's program with TLS, where the server looks for its certificate."""
        return self.folder / "minio-home"

    @property
    def client_env(self) -> Path:
        """A shell file (mode 600) with the variables of a client of Prefect or MLflow."""
        return self.folder / "client.env"

    @property
    def logs(self) -> Path:
        """The folder of rotated logs, one per server."""
        return self.folder / "logs"

    @property
    def conf(self) -> Path:
        """The configuration of supervisord; it contains secrets."""
        return self.folder / "supervisord.conf"

    @property
    def pidfile(self) -> Path:
        """The file with supervisord's process id."""
        return self.folder / "supervisord.pid"

    @property
    def state(self) -> Path:
        """The file of `StackState`."""
        return self.folder / "stack.json"

    @property
    def restored(self) -> Path:
        """A marker file that exists from a restore until the first `up` after it."""
        return self.folder / "restored"

    @property
    def tag(self) -> str:
        """The value of `$FEDLLM_STACK` in every process of this stack; identifies orphans."""
        return str(self.folder)

    @contextmanager
    def usable(self) -> Iterator[None]:
        """Turn an OSError about the home in the block into an error with advice.

        Raises:
            StackError: the home is read-only, another account's, or no folder.
            DiskFullError: the disk has no room.
        """
        try:
            with room(self.home, "`fedllm up` again"):
                yield
        except FileNotFoundError:
            raise  # its meaning depends on the caller
        except OSError as error:
            if not isinstance(error.filename, str):
                raise
            path = Path(error.filename)
            if not (path.is_relative_to(self.home) or self.home.is_relative_to(path)):
                raise
            raise StackError(
                f"{path}: {error.strerror}: {self.home} must be a folder that you can write to: make it"
                " one, or set FEDLLM_HOME to another"
            ) from error

    def create(self) -> None:
        """Create the folders."""
        for folder in (self.home, self.folder, self.logs, self.prefect_home, self.minio):
            private_dir(folder)

    def socket(self) -> Path:
        """Return a path for supervisord's socket within the system's length limit."""
        return self._short_enough("supervisor.sock", "s.sock", _SOCKET_LIMIT)

    def temporary(self) -> Path:
        """Return the TMPDIR of the stack's processes; `up` empties it and `fedllm down` removes it.

        All accounts share the system's folder, and Prefect's worker creates `runner_storage` in it: the first
        account would own that folder, and no other account could start a worker.
        """
        return self._short_enough("tmp", "tmp", _TEMPORARY_LIMIT)

    def empty_temporary(self) -> None:
        """Create the folder of temporary files, empty."""
        shutil.rmtree(self.temporary(), ignore_errors=True)
        private_dir(self.temporary())

    def discard_temporary(self) -> None:
        """Remove the folder of temporary files; no process may still use it."""
        folder = self.temporary()
        shutil.rmtree(folder, ignore_errors=True)
        if folder.parent != self.folder:
            with suppress(OSError):
                folder.parent.rmdir()

    def _short_enough(self, name: str, short_name: str, limit: int) -> Path:
        """Return a path in the stack's folder, or in a folder below /tmp if the path is longer than `limit`.

        Args:
            name: file name in the stack's folder.
            short_name: file name in the folder below /tmp.
            limit: longest path in bytes.

        Raises:
            StackError: the folder below /tmp belongs to another account.
        """
        inside = self.folder / name
        if len(os.fsencode(inside)) <= limit:
            return inside
        # Not below $TMPDIR: the stack's processes have another one, and must find the same socket.
        tag = hashlib.sha256(self.tag.encode()).hexdigest()[:12]
        folder = private_dir(Path("/tmp") / f"fedllm-{os.getuid()}-{tag}")  # noqa: S108 - ours alone, checked
        status = folder.lstat()
        if status.st_uid != os.getuid() or status.st_mode & 0o077 or folder.is_symlink():
            raise StackError(f"{folder} belongs to someone else: set a shorter FEDLLM_HOME")
        return folder / short_name

    @contextmanager
    def lock(self, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        """Lock this stack against another `up`, `down`, backup or restore; wait if one holds the lock.

        Args:
            say: called with a line if this waits.
        """
        with (self.folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("waiting for another fedllm at work on this stack: up, down, backup or restore")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def write_private(self, path: Path, text: str) -> None:
        """Write a file of mode 600 atomically."""
        write_whole(path, text.encode())

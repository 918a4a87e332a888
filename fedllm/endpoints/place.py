"""Where the local stack keeps its files."""

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

_SOCKET_LIMIT = 90  # bytes; a unix socket's path holds 107, and supervisord binds a longer one first
_TEMPORARY_LIMIT = 70  # bytes; below it multiprocessing binds /pymp-12345678/listener-12345678


@dataclass(frozen=True)
class Place:
    """The stack's folder, below fedllm's home; readable by its owner alone."""

    home: Path

    @classmethod
    def here(cls) -> Self:
        """The place that `$FEDLLM_HOME` names. Raises `StackError` for a name no server can be given."""
        home = fedllm_home()
        text = str(home)
        if any(char in text for char in "\"'\n,") or " ;" in text or " #" in text:
            raise StackError(f"{text}: the stack cannot live in a folder with such a name: set FEDLLM_HOME")
        return cls(home)

    @property
    def folder(self) -> Path:
        """All of the stack's files."""
        return self.home / "stack"

    @property
    def prefect_home(self) -> Path:
        """Prefect's own folder: runs, deployments, logs."""
        return self.folder / "prefect"

    @property
    def minio(self) -> Path:
        """The bytes of every bucket."""
        return self.folder / "minio"

    @property
    def ca(self) -> Path:
        """The private authority and the certificate of this machine's servers; `fedllm ca` makes them."""
        return self.home / "ca"

    @property
    def minio_home(self) -> Path:
        """HOME of MinIO's program when it speaks TLS: below it the server looks for its certificate."""
        return self.folder / "minio-home"

    @property
    def client_env(self) -> Path:
        """A shell file (mode 600) with what a client of Prefect or MLflow needs."""
        return self.folder / "client.env"

    @property
    def logs(self) -> Path:
        """One log a server, rotated."""
        return self.folder / "logs"

    @property
    def conf(self) -> Path:
        """The supervisord's configuration; it holds secrets."""
        return self.folder / "supervisord.conf"

    @property
    def pidfile(self) -> Path:
        """The supervisord's process id."""
        return self.folder / "supervisord.pid"

    @property
    def state(self) -> Path:
        """What is remembered over restarts."""
        return self.folder / "stack.json"

    @property
    def restored(self) -> Path:
        """There from a restore until the first `up` after it."""
        return self.folder / "restored"

    @property
    def tag(self) -> str:
        """The value of `$FEDLLM_STACK` in every process of this stack, by which orphans are found."""
        return str(self.folder)

    @contextmanager
    def usable(self) -> Iterator[None]:
        """Name a home that cannot be used inside the block, and what to do about it.

        Raises:
            StackError: the home is read-only, another account's, or no folder.
            DiskFullError: it has no room.
        """
        try:
            with room(self.home, "`fedllm up` again"):
                yield
        except FileNotFoundError:
            raise  # who reads there says what that means
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
        """Make the folders."""
        for folder in (self.home, self.folder, self.logs, self.prefect_home, self.minio):
            private_dir(folder)

    def socket(self) -> Path:
        """A path for supervisord's socket that the system's limit allows."""
        return self._short_enough("supervisor.sock", "s.sock", _SOCKET_LIMIT)

    def temporary(self) -> Path:
        """TMPDIR of every process of the stack, emptied at each start and gone with `fedllm down`.

        The system's own is shared by all accounts, and Prefect's worker keeps `runner_storage` in it: the
        account whose worker comes first would own that folder, and no other account could start a worker.
        """
        return self._short_enough("tmp", "tmp", _TEMPORARY_LIMIT)

    def empty_temporary(self) -> None:
        """Make the folder of temporary files, without what processes that were killed left in it."""
        shutil.rmtree(self.temporary(), ignore_errors=True)
        private_dir(self.temporary())

    def discard_temporary(self) -> None:
        """Remove the folder of temporary files, of which no process may make use any more."""
        folder = self.temporary()
        shutil.rmtree(folder, ignore_errors=True)
        if folder.parent != self.folder:
            with suppress(OSError):
                folder.parent.rmdir()

    def _short_enough(self, name: str, short_name: str, limit: int) -> Path:
        """A path in the stack's folder, or where that is too long for a socket, in a folder below /tmp.

        Args:
            name: in the stack's folder.
            short_name: in the folder below /tmp.
            limit: bytes that the path may have.

        Raises:
            StackError: the folder below /tmp belongs to another account.
        """
        inside = self.folder / name
        if len(os.fsencode(inside)) <= limit:
            return inside
        # Not below $TMPDIR: the stack's processes have another one, and must find the same socket.
        tag = hashlib.sha256(self.tag.encode()).hexdigest()[:12]
        folder = private_dir(Path("/tmp") / f"fedllm-{os.getuid()}-{tag}")  # noqa: S108 - ours alone, checked
        found = folder.lstat()
        if found.st_uid != os.getuid() or found.st_mode & 0o077 or folder.is_symlink():
            raise StackError(f"{folder} belongs to someone else: set a shorter FEDLLM_HOME")
        return folder / short_name

    @contextmanager
    def lock(self, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        """Let one `up`, `down`, backup or restore at a time work on this stack; others wait.

        Args:
            say: hears of a wait.
        """
        with (self.folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("waiting for another fedllm at work on this stack: up, down, backup or restore")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def write_private(self, path: Path, text: str) -> None:
        """Write a file of mode 600, whole or not at all."""
        write_whole(path, text.encode())

"""A site's own random secret: 32 bytes in a file that only its owner may read."""

import os
import secrets
import tempfile
from pathlib import Path

from fedllm.disk import room, sync_folder
from fedllm.errors import IdentityError

_BYTES = 32
_OTHERS = 0o077  # permissions that group and world must not have


def read_key(path: Path) -> bytes | None:
    """Return the key in a file, or None if there is no such file.

    Raises:
        IdentityError: the file is open to others, unreadable, or holds no key.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(4096)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise IdentityError(f"cannot read {path}: {error.strerror}") from None
    if os.name == "posix" and mode & _OTHERS:
        raise IdentityError(f"{path} is open to others: chmod 600 {path}")
    try:
        key = bytes.fromhex(text.decode("ascii"))
    except ValueError:  # never quote the cause: it may hold the key
        key = b""
    if len(key) != _BYTES:
        raise IdentityError(f"{path} does not hold a key of fedllm: restore it from your backup")
    return key


def site_key(path: Path) -> tuple[bytes, bool]:
    """Return the key in a file, drawing it from the operating system if there is none.

    Returns:
        The key, and whether it is new.

    Raises:
        IdentityError: as `read_key`, or the file cannot be created.
        DiskFullError: there is no room for it.
    """
    if (key := read_key(path)) is not None:
        return key, False
    try:
        with room(path.parent, "try again"):
            drawn = _draw(path)
    except OSError as error:
        raise IdentityError(f"cannot store a key at {path}: {error.strerror}") from None
    key = read_key(path)
    assert key is not None  # noqa: S101 - this or another process just wrote it
    return key, drawn


def _draw(path: Path) -> bool:
    """Write a new key atomically; returns False if another process has already written one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # of mode 600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_hex(_BYTES).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(name, path)
    except FileExistsError:
        return False
    finally:
        Path(name).unlink()
    sync_folder(path.parent)
    return True

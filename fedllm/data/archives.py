"""Fetched archives: known by their SHA-256, read in memory, never unpacked."""

import io
import tarfile
from pathlib import Path

from fedllm.data.records import sha256_file
from fedllm.errors import DataError

_LARGEST = 64 * 2**20  # bytes of one member: more is no corpus of ours


def pinned(file: Path, sha256: str) -> Path:
    """The file, whose bytes are those of this SHA-256. Raises `DataError` for others."""
    if (found := sha256_file(file)) != sha256:
        raise DataError(f"{file}: SHA-256 is {found}, expected {sha256}; remove the file and fetch again")
    return file


def member(archive: bytes, path: str, where: str) -> bytes:
    """One regular member of a .tar.gz: nothing is ever unpacked to a path of its choosing.

    Args:
        archive: the whole file.
        path: of the member inside.
        where: what errors call the archive.

    Raises:
        DataError: no such member, or one that is no plain file of a sensible size.
    """
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        try:
            found = tar.getmember(path)
        except KeyError:
            raise DataError(f"{where}: holds no {path}") from None
        file = tar.extractfile(found) if found.isreg() and found.size <= _LARGEST else None
        if file is None:
            raise DataError(f"{where}: {path} is no plain file of a sensible size")
        return file.read()

"""Read fetched archives: checked by SHA-256, read in memory, never unpacked."""

import io
import tarfile
from pathlib import Path

from fedllm.data.records import sha256_file
from fedllm.errors import DataError

_LARGEST = 64 * 2**20  # bytes of one member: no known corpus has more


def pinned(file: Path, sha256: str) -> Path:
    """Return the file if its bytes have this SHA-256. Raises `DataError` otherwise."""
    if (actual := sha256_file(file)) != sha256:
        raise DataError(f"{file}: SHA-256 is {actual}, expected {sha256}; remove the file and fetch again")
    return file


def member(archive: bytes, path: str, where: str) -> bytes:
    """Return one regular member of a .tar.gz, without unpacking it to a path that the archive chooses.

    Args:
        archive: the whole file.
        path: of the member inside.
        where: the archive's name in errors.

    Raises:
        DataError: there is no such member, or it is not a plain file within the size limit.
    """
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        try:
            info = tar.getmember(path)
        except KeyError:
            raise DataError(f"{where}: holds no {path}") from None
        file = tar.extractfile(info) if info.isreg() and info.size <= _LARGEST else None
        if file is None:
            raise DataError(f"{where}: {path} is not a regular file, or too large")
        return file.read()

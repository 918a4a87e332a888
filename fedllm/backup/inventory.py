"""Which files of fedllm's home go into a backup, and in which order they are read."""

import os
import re
from collections.abc import Iterable, Iterator
from enum import IntEnum
from pathlib import Path, PurePosixPath

from fedllm.backup.databases import is_sqlite
from fedllm.data.forgotten_file import FILE
from fedllm.errors import BackupError

# Files that the next start creates again, or that matter only while a process runs. A site fetches or
# computes a decrypted update or model again, and in an archive anybody could read it.
_TRANSIENT = re.compile(
    r"cache/|stack/(logs|minio-home|pages|tmp)/|stack/minio/(?!root\.json$)|stack/prefect/(?!prefect\.db$)"
    r"|stack/(supervisor.*|client\.env|lock|mlflow-auth\.ini|restored)$|restoring$"
    r"|(?!coordinator/)(.*/)?work/[^/]*\.(update|model)$"
    r"|.*(\.lock|\.log|\.part|\.sock|\.pid|-wal|-shm|-journal)$|(.*/)?\.[^/]+(/|$)"
)
_LARGE = {
    "cache",
    "stack/logs",
    "stack/tmp",
    "stack/minio/blocks",
    "stack/minio/cache",
}  # folders that are never listed
# Left out without keys. Includes updates that the coordinator decrypted; the archive has the sealed ones.
_PRIVATE = re.compile(
    r"(.*/)?keys(-until-[^/]*)?/|ca/.*\.key$|stack/(passwords|store-users|databases)\.json$"
    r"|stack/mlflow-auth\.db$|stack/minio/root\.json$"
    r"|(.*/)?(forgotten|pseudonym)\.key$|.*\.invitation$|coordinator/.*\.update$"
)
_SITE = {"site.yaml", "memory.db"}  # a folder with either is a site's home
_COPIES = (".backup-", ".restoring-")  # working folders of a backup or restore in progress


class ReadOrder(IntEnum):
    """The order in which files are read; docs/decisions/0014-backup-order.md gives the reasons."""

    SITE_MEMORY = 1
    SITE_FILE = 2
    JOURNAL = 3
    COORDINATOR_FILE = 4
    LEDGER = 5
    MLFLOW = 6
    PREFECT = 7
    OTHER = 8


def files(home: Path, *, keys: bool) -> list[tuple[ReadOrder, str]]:
    """List the files to keep as (order, path below the home), sorted by both.

    Args:
        home: fedllm's home.
        keys: whether to include private keys, passwords and decrypted updates.

    Raises:
        BackupError: a file to keep is a link.
    """
    kept = [name for name in _names(home) if not _TRANSIENT.match(name)]
    sites = _site_folders(kept)
    return sorted((_read_order(home, name, sites), name) for name in kept if keys or not _PRIVATE.match(name))


def site_homes(home: Path) -> list[Path]:
    """Return the folders of all sites below fedllm's home: simulated, under `sites`, or elsewhere."""
    return sorted(home / folder for folder in _site_folders(_names(home)))


def is_excluded(name: str, *, keys: bool) -> bool:
    """Return whether a backup leaves out a file because of its path.

    Args:
        name: the path below fedllm's home.
        keys: whether the backup includes private keys.
    """
    return bool(_TRANSIENT.match(name)) or (not keys and bool(_PRIVATE.match(name)))


def hidden_sites(home: Path) -> list[str]:
    """Return the hidden site folders, as paths below the home; no archive includes them."""
    hidden = []
    for folder, folders, names in os.walk(home):
        below = Path(folder).relative_to(home)
        folders[:] = [
            f for f in folders if (below / f).as_posix() not in _LARGE and not f.startswith(_COPIES)
        ]
        if not _SITE.isdisjoint(names) and any(part.startswith(".") for part in below.parts):
            hidden.append(below.as_posix())
    return sorted(hidden)


def _site_folders(names: Iterable[str]) -> set[PurePosixPath]:
    return {path.parent for path in map(PurePosixPath, names) if path.name in _SITE}


def _names(home: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(home):
        below = Path(folder).relative_to(home)
        folders[:] = sorted(f for f in folders if _is_entered(home, (below / f).as_posix()))
        for name in names:
            path = Path(folder) / name
            if path.is_symlink():
                _refuse_link(home, (below / name).as_posix())
            elif path.is_file():
                yield (below / name).as_posix()


def _is_entered(home: Path, folder: str) -> bool:
    if folder in _LARGE or PurePosixPath(folder).name.startswith("."):
        return False
    if (home / folder).is_symlink():
        _refuse_link(home, folder)
        return False
    return True


def _refuse_link(home: Path, name: str) -> None:
    if not _TRANSIENT.match(name):
        raise BackupError(
            f"{home / name} is a link, and a backup follows none: put what it leads to in its place"
        )


def _read_order(home: Path, name: str, sites: set[PurePosixPath]) -> ReadOrder:
    part, last = name.partition("/")[0], name.rpartition("/")[2]
    if last == "memory.db":
        return ReadOrder.SITE_MEMORY
    if part == "coordinator":
        return ReadOrder.JOURNAL if last == "journal.db" else ReadOrder.COORDINATOR_FILE
    if name == "stack/prefect/prefect.db":
        return ReadOrder.PREFECT
    if name.startswith("stack/mlflow"):
        return ReadOrder.MLFLOW
    if sites.isdisjoint(PurePosixPath(name).parents):
        return ReadOrder.OTHER
    # Withdrawals are read together with their key, without which a restored site trains nothing.
    return ReadOrder.LEDGER if last != FILE and is_database(home / name) else ReadOrder.SITE_FILE


def is_database(path: Path) -> bool:
    """Return whether a file exists and is a SQLite database."""
    try:
        return is_sqlite(path)
    except FileNotFoundError:
        return False

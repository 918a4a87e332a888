"""Which files of fedllm's home are worth keeping, and when each is read."""

import os
import re
from collections.abc import Iterable, Iterator
from enum import IntEnum
from pathlib import Path, PurePosixPath

from fedllm.backup.databases import is_sqlite
from fedllm.errors import BackupError

# What is made again at the next start, or only means something while it runs. An update or a model that
# a site has opened is fetched or computed again, and in an archive anybody could read it.
_PASSING = re.compile(
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
}  # not even looked through
# With them an update that the coordinator has opened; without, the sealed one is in the archive.
_PRIVATE = re.compile(
    r"(.*/)?keys(-until-[^/]*)?/|ca/.*\.key$|stack/(passwords|store-users|databases)\.json$"
    r"|stack/mlflow-auth\.db$|stack/minio/root\.json$"
    r"|(.*/)?(forgotten|pseudonym)\.key$|.*\.invitation$|coordinator/.*\.update$"
)
_SITE = {"site.yaml", "memory.db"}  # a folder with either is a site's
_COPIES = (".backup-", ".restoring-")  # folders of a backup or restore at work


class Turn(IntEnum):
    """The order in which files are read: docs/decisions/0014-backup-order.md gives the reasons."""

    SITE_MEMORY = 1
    SITE_FILE = 2
    JOURNAL = 3
    COORDINATOR_FILE = 4
    LEDGER = 5
    MLFLOW = 6
    PREFECT = 7
    OTHER = 8


def files(home: Path, *, keys: bool) -> list[tuple[Turn, str]]:
    """The files to keep, by their paths below the home, in their order.

    Args:
        home: fedllm's home.
        keys: whether private keys, passwords and opened updates are wanted.

    Raises:
        BackupError: a link leads to something that would have to be kept.
    """
    found = [name for name in _names(home) if not _PASSING.match(name)]
    sites = _site_folders(found)
    return sorted((_turn(home, name, sites), name) for name in found if keys or not _PRIVATE.match(name))


def site_homes(home: Path) -> list[Path]:
    """The folders of all sites that live below fedllm's home: simulated, under `sites`, or anywhere."""
    return sorted(home / folder for folder in _site_folders(_names(home)))


def is_passed_over(name: str, *, keys: bool) -> bool:
    """Whether a file is left out for where it lies and what it is called, by its path below a home.

    Args:
        name: the path.
        keys: whether private keys are wanted.
    """
    return bool(_PASSING.match(name)) or (not keys and bool(_PRIVATE.match(name)))


def hidden_sites(home: Path) -> list[str]:
    """Folders of sites, below the home, that are hidden or in a hidden one: no archive holds them."""
    found = []
    for folder, folders, names in os.walk(home):
        below = Path(folder).relative_to(home)
        folders[:] = [
            f for f in folders if (below / f).as_posix() not in _LARGE and not f.startswith(_COPIES)
        ]
        if not _SITE.isdisjoint(names) and any(part.startswith(".") for part in below.parts):
            found.append(below.as_posix())
    return sorted(found)


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
    if not _PASSING.match(name):
        raise BackupError(
            f"{home / name} is a link, and a backup follows none: put what it leads to in its place"
        )


def _turn(home: Path, name: str, sites: set[PurePosixPath]) -> Turn:
    part, last = name.partition("/")[0], name.rpartition("/")[2]
    if last == "memory.db":
        return Turn.SITE_MEMORY
    if part == "coordinator":
        return Turn.JOURNAL if last == "journal.db" else Turn.COORDINATOR_FILE
    if name == "stack/prefect/prefect.db":
        return Turn.PREFECT
    if name.startswith("stack/mlflow"):
        return Turn.MLFLOW
    if sites.isdisjoint(PurePosixPath(name).parents):
        return Turn.OTHER
    return Turn.LEDGER if is_database(home / name) else Turn.SITE_FILE


def is_database(path: Path) -> bool:
    """Whether a file is a SQLite database; one that is gone is none."""
    try:
        return is_sqlite(path)
    except FileNotFoundError:
        return False

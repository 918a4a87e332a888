"""Which files of fedllm's home are worth keeping, and when each is read."""

import os
import re
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

from fedllm.backup.databases import is_sqlite

# What is made again at the next start, or only means something while it runs.
_PASSING = re.compile(
    r"cache/|stack/(logs|minio-home)/|stack/minio/(?!root\.json$)|stack/prefect/(?!prefect\.db$)"
    r"|stack/(supervisor.*|client\.env|lock|mlflow-auth\.ini)$"
    r"|.*(\.lock|\.log|\.part|\.sock|\.pid|-wal|-shm|-journal)$|(.*/)?\.[^/]*$"
)
_LARGE = {"cache", "stack/logs", "stack/minio/blocks", "stack/minio/cache"}  # not even looked through
_PRIVATE = re.compile(
    r"(.*/)?keys(-until-[^/]*)?/|ca/.*\.key$|stack/(passwords|databases)\.json$|stack/minio/root\.json$"
    r"|.*\.invitation$"
)


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
    """The files to keep, by their paths below the home, in their order; links are not followed.

    Args:
        home: fedllm's home.
        keys: whether private keys and passwords are wanted.
    """
    found = [name for name in _names(home) if not _PASSING.match(name)]
    return sorted((_turn(home, name), name) for name in found if keys or not _PRIVATE.match(name))


def _names(home: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(home):
        below = Path(folder).relative_to(home)
        folders[:] = sorted(f for f in folders if (below / f).as_posix() not in _LARGE)
        for name in names:
            path = Path(folder) / name
            if path.is_file() and not path.is_symlink():
                yield (below / name).as_posix()


def _turn(home: Path, name: str) -> Turn:
    part, last = name.partition("/")[0], name.rpartition("/")[2]
    if part == "simulated":
        if last == "memory.db":
            return Turn.SITE_MEMORY
        return Turn.LEDGER if is_database(home / name) else Turn.SITE_FILE
    if part == "coordinator":
        return Turn.JOURNAL if last == "journal.db" else Turn.COORDINATOR_FILE
    if name == "stack/prefect/prefect.db":
        return Turn.PREFECT
    return Turn.MLFLOW if name.startswith("stack/mlflow") else Turn.OTHER


def is_database(path: Path) -> bool:
    """Whether a file is a SQLite database; one that is gone is none."""
    try:
        return is_sqlite(path)
    except FileNotFoundError:
        return False

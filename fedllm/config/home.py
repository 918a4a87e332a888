"""The folders of fedllm: its home and its cache."""

import os
from pathlib import Path

from fedllm.errors import BackupError

RESTORING = "restoring"  # file in a home while a restore fills it; stays if the restore is killed


def fedllm_home() -> Path:
    """Return the folder of keys, journals and the local stack: `$FEDLLM_HOME`, else `~/.fedllm`."""
    return Path(os.environ.get("FEDLLM_HOME", "~/.fedllm")).expanduser().resolve()


def cache_dir() -> Path:
    """Return the folder of files that can be made again: `$FEDLLM_CACHE`, else `cache` in the home."""
    folder = os.environ.get("FEDLLM_CACHE")
    return Path(folder).expanduser().resolve() if folder else fedllm_home() / "cache"


def refuse_half_restored(place: Path | None = None) -> None:
    """Refuse a home whose restore is under way or was cut off.

    Args:
        place: a folder in the home, such as a site's; default: fedllm's home. `restore --into` may have
            filled another home than `$FEDLLM_HOME`.

    Raises:
        BackupError: the home is half restored.
    """
    folder = place.resolve() if place else fedllm_home()
    for home in (folder, *folder.parents):
        if (home / RESTORING).is_file():
            raise BackupError(
                f"{home} is half restored: let `fedllm restore` end; if it was killed, empty the folder and "
                "restore again"
            )


def private_dir(path: Path) -> Path:
    """Create a folder that only its owner can read, and return it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path

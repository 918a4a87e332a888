"""Where fedllm keeps what is its own: one folder, as Prefect and Hugging Face do."""

import os
from pathlib import Path

from fedllm.errors import BackupError

RESTORING = "restoring"  # a file in a home that a restore fills, or filled in part before it was killed


def fedllm_home() -> Path:
    """Folder of keys, journals and the local stack: `$FEDLLM_HOME`, else `~/.fedllm`."""
    return Path(os.environ.get("FEDLLM_HOME", "~/.fedllm")).expanduser().resolve()


def cache_dir() -> Path:
    """Folder of what can be fetched or computed again: `$FEDLLM_CACHE`, else `cache` in the home."""
    given = os.environ.get("FEDLLM_CACHE")
    return Path(given).expanduser().resolve() if given else fedllm_home() / "cache"


def refuse_half_restored(place: Path | None = None) -> None:
    """Raise `BackupError` for a home whose restore is under way or was cut off: a half must not be used.

    Args:
        place: a folder in it, such as a site's; default: fedllm's home. `restore --into` may have filled
            another one than `$FEDLLM_HOME`.
    """
    folder = place.resolve() if place else fedllm_home()
    for home in (folder, *folder.parents):
        if (home / RESTORING).is_file():
            raise BackupError(
                f"{home} is half restored: let `fedllm restore` end; if it was killed, empty the folder and "
                "restore again"
            )


def private_dir(path: Path) -> Path:
    """Create `path` readable by its owner alone."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path

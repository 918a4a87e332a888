"""Another account of this machine, for tests of what one account's stack does to another's."""

import os
import shutil
from pathlib import Path

UID = 61_101  # no account here has it


def why_not() -> str | None:
    """Why this user cannot run a process as another account; None when it can."""
    if os.geteuid():
        return "a process of another account needs root to start it"
    return None if shutil.which("setpriv") else "setpriv not found: install util-linux"


def as_other(*command: str) -> list[str]:
    """A command line that runs as the other account.

    It may write to what is its own or everybody's, and read everything: pytest's folders and the interpreter
    may be in a folder that is root's alone.
    """
    only = "-all,+dac_read_search"
    rights = [f"--{kind}={only}" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
    return ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", *rights, *command]


def give(folder: Path) -> None:
    """Make a folder and all in it the other account's."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, UID, UID, follow_symlinks=False)

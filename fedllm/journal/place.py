"""Where a coordinator keeps its journal and its files for a federation."""

import os
from pathlib import Path

from fedllm.config import fedllm_home
from fedllm.config.home import private_dir, refuse_half_restored
from fedllm.errors import ConfigError


def journal_url(federation: str) -> str:
    """`FEDLLM_JOURNAL_URL`, else a SQLite file in the coordinator's folder.

    Raises:
        BackupError: the home is half restored.
    """
    refuse_half_restored()
    given = os.environ.get("FEDLLM_JOURNAL_URL")
    return given or f"sqlite:///{_file(federation)}"


def has_journal(federation: str) -> bool:
    """Whether a journal was named or is there already; to open one would make it."""
    return bool(os.environ.get("FEDLLM_JOURNAL_URL")) or _file(federation).is_file()


def coordinator_folder(federation: str) -> Path:
    """The coordinator's own folder for a federation, made where it is not there: keys, journal, models."""
    folder = _folder(federation)
    try:
        return private_dir(folder)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be made ({error.strerror}): make {fedllm_home()} a folder that you can write "
            "to, or set FEDLLM_HOME to another"
        ) from None


def _file(federation: str) -> Path:
    return _folder(federation) / "journal.db"


def _folder(federation: str) -> Path:
    return fedllm_home() / "coordinator" / federation


def update_file(number: int, sha256: str) -> str:
    """Name of an opened update in its run's folder; it begins with the round, which forgets its own alone."""
    return f"{number}-{sha256}.update"

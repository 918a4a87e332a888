"""The places of a coordinator's journal and files for a federation."""

import os
from pathlib import Path

from fedllm.config import fedllm_home
from fedllm.config.home import private_dir, refuse_half_restored
from fedllm.errors import ConfigError


def journal_url(federation: str) -> str:
    """Return `FEDLLM_JOURNAL_URL`, or else the URL of a SQLite file in the coordinator's folder.

    Raises:
        BackupError: the home is only partly restored.
    """
    refuse_half_restored()
    url = os.environ.get("FEDLLM_JOURNAL_URL")
    return url or f"sqlite:///{_file(federation)}"


def has_journal(federation: str) -> bool:
    """Return whether a journal is configured or exists, without creating one as `Journal` would."""
    return bool(os.environ.get("FEDLLM_JOURNAL_URL")) or _file(federation).is_file()


def coordinator_folder(federation: str) -> Path:
    """Return the coordinator's folder for a federation (keys, journal, models); create it if absent."""
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
    """Return the name of an opened update's file; its round comes first, so a round deletes only its own."""
    return f"{number}-{sha256}.update"

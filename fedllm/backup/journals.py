"""Journals in a backup, with what they lead to: the sealed updates of rounds that are open."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from fedllm.backup.databases import dump_postgres, snapshot
from fedllm.backup.inventory import Turn
from fedllm.backup.manifest import DATABASES, HOME
from fedllm.backup.needs import Journalled, Need, read_journal
from fedllm.backup.objects import Shelf
from fedllm.backup.staging import Staged
from fedllm.backup.stores import buckets_of, foreign_shelf
from fedllm.config import FederationConfig
from fedllm.errors import BackupError, ConfigError
from fedllm.postgres_address import is_postgres

Progress = Callable[[str], None]

_TRIES = 20  # rounds that end while their updates are read
_COORDINATOR = f"{HOME}coordinator/"
_DUMP = f"{DATABASES}journal.dump"


def read_journals(
    staged: Staged, local: Sequence[Shelf], configs: Sequence[FederationConfig], progress: Progress
) -> tuple[Journalled, list[Shelf], tuple[str, ...]]:
    """Journal and coordinator's files, and the updates of open rounds that the journal leads to.

    A round that ends meanwhile destroys its updates: then all of it is read again, a round further on.

    Args:
        staged: where the copies go.
        local: the local stack's buckets.
        configs: federations whose store is not the local stack's and that have not trained yet.
        progress: hears what is done, and what is lost.

    Returns:
        What the journal tells, all stores, and the keys of updates that are nowhere.

    Raises:
        BackupError: there is no journal where there must be one, or rounds end faster than they are read.
        ConfigError: a federation's store is not known, or its keys are not in the environment.
    """
    missed: set[Need] = set()
    for _ in range(_TRIES):
        staged.forget([name for name in staged.files if _is_read_again(name)])
        journalled = _copied(staged)
        staged.copy(Turn.COORDINATOR_FILE)
        _refuse_without_journal(staged, journalled, progress)
        own = _configs(journalled, configs)
        shelves = [*local, *(foreign_shelf(bucket) for bucket in buckets_of(own.values()))]
        missing = {need for need in journalled.needs if not _satisfied(staged, need, own, shelves)}
        # The journal says that a round is over before its updates are destroyed: what two of its states in
        # a row need, and is nowhere, was not destroyed by a round that ended.
        if missing <= missed:
            for need in missing:
                progress(f"the update {need.key} is lost: its round will go on without it")
            progress("the journal is read")
            return journalled, shelves, tuple(sorted(need.key for need in missing))
        missed = missing
    raise BackupError("rounds end faster than their updates can be read: back up between trainings")


def _is_read_again(name: str) -> bool:
    """Coordinator's files, and updates of rounds that may be over by now; journals are written over."""
    if name.startswith(_COORDINATOR):
        return not name.endswith("/journal.db")
    return not name.startswith((HOME, DATABASES))


def _copied(staged: Staged) -> Journalled:
    """Copy the journals, and read what they tell from the very state that was copied."""
    url = os.environ.get("FEDLLM_JOURNAL_URL")
    if url and is_postgres(url):
        target = staged.folder / "journal.dump"
        target.unlink(missing_ok=True)
        with snapshot(url) as (connection, name):
            dump_postgres(url, target, name)
            staged.files[_DUMP] = target
            return read_journal(connection)
    names = staged.names(Turn.JOURNAL)
    if url and not any(_is_file(url, staged.home / name) for name in names):
        raise BackupError(
            "FEDLLM_JOURNAL_URL names a database that a backup does not know: it reads a Postgres, or "
            f"{staged.home}/coordinator/NAME/journal.db"
        )
    told = Journalled()
    for name in names:
        staged.copy_file(name)
        with snapshot(f"sqlite:///{staged.files[HOME + name]}") as (connection, _):
            told = told.and_of(read_journal(connection))
    return told


def _is_file(url: str, path: Path) -> bool:
    prefix, _, file = url.partition(":///")
    return prefix.startswith("sqlite") and Path(file.partition("?")[0]).resolve() == path


def _refuse_without_journal(staged: Staged, told: Journalled, progress: Progress) -> None:
    """Raise `BackupError` for a coordinator whose journal is not here: without it its keys lead nowhere."""
    for keys in sorted(staged.home.glob("coordinator/*/keys")):
        folder, name = keys.parent, keys.parent.name
        if name in told.known or f"{_COORDINATOR}{name}/journal.db" in staged.files:
            continue
        if _DUMP not in staged.files or (folder / "runs").exists():
            raise BackupError(
                f"{folder} has no journal here: set FEDLLM_JOURNAL_URL as its trainings have it"
            )
        progress(f"the journal knows nothing of {name}: no site has joined it yet")


def _configs(told: Journalled, given: Sequence[FederationConfig]) -> dict[str, FederationConfig]:
    named = {config.name: config for config in given}
    if unknown := [name for name in told.unread if name not in named]:
        raise ConfigError(
            f"the newest training of {unknown[0]} has a configuration that this fedllm does not understand: "
            "name its federation file with --config"
        )
    return named | told.configs


def _satisfied(
    staged: Staged, need: Need, own: dict[str, FederationConfig], shelves: Sequence[Shelf]
) -> bool:
    """Whether an open round's update is in the backup."""
    kept = f"{_COORDINATOR}{need.federation}/runs/{need.run}/{need.kept}"
    if kept in staged.files or any(stored.key == need.key for stored in staged.objects.values()):
        return True
    local = own[need.federation].store.url == "auto"
    folder = "fedllm" if local else f"of-{need.federation}"
    shelf = next((shelf for shelf in shelves if shelf.bucket.folder == folder), None)
    found = staged.fetch(shelf, need.key) if shelf is not None else None
    if found is None:
        return False
    stored, path = found
    staged.files[stored.member] = path
    return True

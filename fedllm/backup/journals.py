"""Back up journals together with the sealed updates of open rounds that they refer to."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from fedllm.backup.databases import dump_postgres, snapshot
from fedllm.backup.inventory import ReadOrder
from fedllm.backup.manifest import DATABASES, HOME
from fedllm.backup.needs import JournalContents, Need, read_journal
from fedllm.backup.objects import BackupStore
from fedllm.backup.staging import Staged
from fedllm.backup.stores import buckets_of, external_store
from fedllm.config import FederationConfig
from fedllm.errors import BackupError, ConfigError
from fedllm.postgres_address import is_postgres

Progress = Callable[[str], None]

_TRIES = 20  # readings; one more for each round that ends while its updates are read
_COORDINATOR = f"{HOME}coordinator/"
_DUMP = f"{DATABASES}journal.dump"


def read_journals(
    staged: Staged, local: Sequence[BackupStore], configs: Sequence[FederationConfig], progress: Progress
) -> tuple[JournalContents, list[BackupStore], tuple[str, ...]]:
    """Copy the journals, the coordinator's files, and the updates that open rounds need.

    A round that ends in between deletes its updates; everything is then read again.

    Args:
        staged: receives the copies.
        local: the local stack's buckets.
        configs: federations with an external store that have not trained yet.
        progress: called with a line for what was read and what is lost.

    Returns:
        The journals' contents, all stores, and the keys of updates that no longer exist.

    Raises:
        BackupError: a required journal is missing, or rounds end faster than they can be read.
        ConfigError: a federation's store is unknown, or its keys are not in the environment.
    """
    missing_before: set[Need] = set()
    for _ in range(_TRIES):
        staged.discard([name for name in staged.files if _is_read_again(name)])
        contents = _copy_journals(staged)
        staged.copy(ReadOrder.COORDINATOR_FILE)
        _refuse_without_journal(staged, contents, progress)
        by_name = _configs(contents, configs)
        stores = [*local, *(external_store(bucket) for bucket in buckets_of(by_name.values()))]
        missing = {need for need in contents.needs if not _satisfied(staged, need, by_name, stores)}
        # The journal marks a round as over before its updates are deleted. So if two readings in a row need
        # an update that does not exist, it was not deleted by a round that ended.
        if missing <= missing_before:
            for need in missing:
                progress(f"the update {need.key} is lost: its round will go on without it")
            progress("the journal is read")
            return contents, stores, tuple(sorted(need.key for need in missing))
        missing_before = missing
    raise BackupError("rounds end faster than their updates can be read: back up between trainings")


def _is_read_again(name: str) -> bool:
    """Return whether a copy is discarded before another reading; journal copies are overwritten instead."""
    if name.startswith(_COORDINATOR):
        return not name.endswith("/journal.db")
    return not name.startswith((HOME, DATABASES))


def _copy_journals(staged: Staged) -> JournalContents:
    """Copy the journals and read the contents of exactly the copied state."""
    url = os.environ.get("FEDLLM_JOURNAL_URL")
    if url and is_postgres(url):
        target = staged.folder / "journal.dump"
        target.unlink(missing_ok=True)
        with snapshot(url) as (connection, name):
            dump_postgres(url, target, name)
            staged.files[_DUMP] = target
            return read_journal(connection)
    names = staged.names(ReadOrder.JOURNAL)
    if url and not any(_is_file(url, staged.home / name) for name in names):
        raise BackupError(
            "FEDLLM_JOURNAL_URL names a database that a backup cannot read: use a Postgres, or "
            f"{staged.home}/coordinator/NAME/journal.db"
        )
    contents = JournalContents()
    for name in names:
        staged.copy_file(name)
        with snapshot(f"sqlite:///{staged.files[HOME + name]}") as (connection, _):
            contents = contents.merged(read_journal(connection))
    return contents


def _is_file(url: str, path: Path) -> bool:
    prefix, _, file = url.partition(":///")
    return prefix.startswith("sqlite") and Path(file.partition("?")[0]).resolve() == path


def _refuse_without_journal(staged: Staged, contents: JournalContents, progress: Progress) -> None:
    """Raise `BackupError` for a coordinator without a journal here: its keys are useless without one."""
    for keys in sorted(staged.home.glob("coordinator/*/keys")):
        folder, name = keys.parent, keys.parent.name
        if name in contents.known or f"{_COORDINATOR}{name}/journal.db" in staged.files:
            continue
        if _DUMP not in staged.files or (folder / "runs").exists():
            raise BackupError(f"{folder} has no journal here: set FEDLLM_JOURNAL_URL as for its trainings")
        progress(f"the journal has no entry for {name}: no site has joined it yet")


def _configs(contents: JournalContents, given: Sequence[FederationConfig]) -> dict[str, FederationConfig]:
    by_name = {config.name: config for config in given}
    if unknown := [name for name in contents.unread if name not in by_name]:
        raise ConfigError(
            f"the newest training of {unknown[0]} has a configuration that this fedllm does not understand: "
            "name its federation file with --config"
        )
    return by_name | contents.configs


def _satisfied(
    staged: Staged, need: Need, configs: dict[str, FederationConfig], stores: Sequence[BackupStore]
) -> bool:
    """Return whether an open round's update is in the backup; fetch it if it is not yet."""
    kept = f"{_COORDINATOR}{need.federation}/runs/{need.run}/{need.kept}"
    if kept in staged.files or any(stored.key == need.key for stored in staged.objects.values()):
        return True
    local = configs[need.federation].store.url == "auto"
    folder = "fedllm" if local else f"of-{need.federation}"
    store = next((store for store in stores if store.bucket.folder == folder), None)
    fetched = staged.fetch(store, need.key) if store is not None else None
    if fetched is None:
        return False
    stored, path = fetched
    staged.files[stored.member] = path
    return True

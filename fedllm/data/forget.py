"""Withdrawal: exclude records from all later rounds. The data file itself is unchanged."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedllm.data.forgotten_file import (
    FILE,
    KEY,
    RESTORE,
    Withdrawal,
    add_entries,
    locked,
    marked,
    read_entries,
)
from fedllm.data.former_forgotten import has_former, read_former, remove_former
from fedllm.data.records import Record
from fedllm.data.site_key import read_key, site_key
from fedllm.disk import room
from fedllm.errors import DataError


@dataclass(frozen=True)
class Forgotten:
    """A site's withdrawals in order of entry; `key` is empty if there are none."""

    key: bytes = field(default=b"", repr=False)
    entries: tuple[Withdrawal, ...] = ()

    @classmethod
    def load(cls, home: Path) -> "Forgotten":
        """Read and verify the withdrawals in a site's home; empty if the site never recorded any.

        Raises:
            DataError: the home does not exist, or the withdrawals or their key are damaged or missing.
            IdentityError: the key is open to others or damaged.
        """
        _refuse_absent(home)
        if not _was_begun(home):
            return cls()
        if (home / FILE).is_file() and not has_former(home):
            return _read(home)
        with locked(home):  # another process may be creating the file
            return _taken_over(home)

    def keep(self, records: Iterable[Record]) -> list[Record]:
        """Return the records that no entry matches. Needs whole records: minimise afterwards."""
        wanted = _by_field(self.entries)
        return [record for record in records if not self._matches(record, wanted)]

    def count(self, entry: Withdrawal, records: Iterable[Record]) -> int:
        """Return how many records one entry matches."""
        wanted = _by_field([entry])
        return sum(self._matches(record, wanted) for record in records)

    def _matches(self, record: Record, wanted: Mapping[str, set[str]]) -> bool:
        return any(
            name in record and marked(self.key, name, record[name]) in marks for name, marks in wanted.items()
        )


def forget(home: Path, values: Iterable[tuple[str, str]]) -> tuple[Forgotten, list[Withdrawal]]:
    """Exclude records with these (field, value) pairs from every later round.

    Values are texts, as `read_records` gives them. Known pairs are skipped. When this returns, the
    entries are on the disk.

    Returns:
        All withdrawals, and the new entries.

    Raises:
        DataError: the withdrawals are damaged, or the home is not writable; nothing is added.
        DiskFullError: there is no room; nothing is added.
    """
    _refuse_absent(home)
    try:
        with room(home, "run it again"), locked(home):
            before = _taken_over(home) if _was_begun(home) else Forgotten()
            key = site_key(home / KEY)[0]
            wanted = (Withdrawal.now(name, marked(key, name, value)) for name, value in values)
            new = _not_among(before.entries, wanted)
            if new:
                add_entries(home, key, new)
    except OSError as error:
        raise DataError(f"cannot write the withdrawals in {home}: {error.strerror}") from None
    return Forgotten(key, (*before.entries, *new)), new


def _was_begun(home: Path) -> bool:
    """Return whether a home holds any file of withdrawals, in this format or the former one."""
    return (home / FILE).exists() or (home / KEY).exists() or has_former(home)


def _read(home: Path) -> Forgotten:
    key = read_key(home / KEY)
    if key is None:
        raise DataError(f"{home / KEY} is missing, and the withdrawals cannot be read without it: {RESTORE}")
    return Forgotten(key, read_entries(home, key))


def _taken_over(home: Path) -> Forgotten:
    """Read the withdrawals, after moving any of the former format to the table. Requires the lock.

    All entries are in the table before the former files are removed. After a crash in between this runs again
    and skips entries that are already in the table.
    """
    key = read_key(home / KEY)
    if key is not None and has_former(home):
        entries = read_entries(home, key) if (home / FILE).is_file() else ()
        add_entries(home, key, _not_among(entries, read_former(home, key)))
        remove_former(home)
    return _read(home)


def _not_among(known: Sequence[Withdrawal], entries: Iterable[Withdrawal]) -> list[Withdrawal]:
    """Return the unknown entries without repeats, numbered after the known ones."""
    seen = {(entry.field, entry.value) for entry in known}
    fresh: list[Withdrawal] = []
    for entry in entries:
        if (mark := (entry.field, entry.value)) not in seen:
            seen.add(mark)
            fresh.append(replace(entry, seq=len(known) + len(fresh)))
    return fresh


def _refuse_absent(home: Path) -> None:
    """Raise `DataError` for a missing home, which must not count as one without withdrawals."""
    if not home.is_dir():
        raise DataError(f"{home}: no such folder, so the withdrawals cannot be read; name the site's home")


def _by_field(entries: Iterable[Withdrawal]) -> dict[str, set[str]]:
    wanted: dict[str, set[str]] = {}
    for entry in entries:
        wanted.setdefault(entry.field, set()).add(entry.value)
    return wanted

"""Withdrawal: records that no later round trains on. The data file itself stays as it is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedllm.data.forgotten_file import KEY, Entry, Journal, append, locked, read_journal, was_begun
from fedllm.data.records import Record
from fedllm.data.site_key import site_key
from fedllm.disk import room
from fedllm.errors import DataError


@dataclass(frozen=True)
class Forgotten:
    """What a site's journal of withdrawals says."""

    journal: Journal = field(default_factory=Journal)

    @classmethod
    def load(cls, home: Path) -> "Forgotten":
        """Read and verify the journal of a site's home; a home that never began one has forgotten nothing.

        Raises:
            DataError: there is no such home, a line is torn or was edited, or the journal, its end or its key
                is gone.
            IdentityError: the key is open to others or damaged.
        """
        _refuse_absent(home)
        if not was_begun(home):
            return cls()
        with locked(home):
            return cls(read_journal(home))

    @property
    def entries(self) -> tuple[Entry, ...]:
        """In the order in which they were journaled."""
        return self.journal.entries

    def keep(self, records: Iterable[Record]) -> list[Record]:
        """The records that no entry matches. It looks at whole records: minimise afterwards."""
        wanted = _by_field(self.entries)
        return [record for record in records if not self._matches(record, wanted)]

    def count(self, entry: Entry, records: Iterable[Record]) -> int:
        """How many records one entry matches."""
        wanted = _by_field([entry])
        return sum(self._matches(record, wanted) for record in records)

    def _matches(self, record: Record, wanted: Mapping[str, set[str]]) -> bool:
        return any(
            name in record and self.journal.mark(name, record[name]) in marks
            for name, marks in wanted.items()
        )


def forget(home: Path, values: Iterable[tuple[str, str]]) -> tuple[Forgotten, list[Entry]]:
    """Journal that records with these (field, value) are left out of every later round.

    Values are texts, as `read_records` gives them. What is journaled already is passed over. When this
    returns, the entries are on the disk.

    Returns:
        What is forgotten now, and the entries that are new.

    Raises:
        DataError: the journal is damaged, or the home cannot be written in; nothing is added.
        DiskFullError: there is no room; nothing was added.
    """
    _refuse_absent(home)
    try:
        with room(home, "run it again"), locked(home):
            before = read_journal(home)
            journal = replace(before, key=site_key(home / KEY)[0])
            known = _by_field(before.entries)
            lines: list[bytes] = []
            for name, value in values:
                mark = journal.mark(name, value)
                if mark not in known.setdefault(name, set()):
                    known[name].add(mark)
                    journal, line = journal.next_line(name, value)
                    lines.append(line)
            if lines:
                append(home, lines, journal)
    except OSError as error:
        raise DataError(f"cannot journal in {home}: {error.strerror}") from None
    return Forgotten(journal), list(journal.entries[len(before.entries) :])


def _refuse_absent(home: Path) -> None:
    """A home that is not there must not pass for one where nothing was withdrawn."""
    if not home.is_dir():
        raise DataError(f"{home}: no such folder, so nobody can say what was withdrawn; name the site's home")


def _by_field(entries: Iterable[Entry]) -> dict[str, set[str]]:
    wanted: dict[str, set[str]] = {}
    for entry in entries:
        wanted.setdefault(entry.field, set()).add(entry.value)
    return wanted

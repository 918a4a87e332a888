"""The journal of withdrawals as it lies in a site's home: lines that are only added, chained and keyed.

`forgotten.jsonl` has a line an entry, compact JSON with sorted keys:

    at        when, UTC
    field     which field of a record is looked at
    value     HMAC-SHA256 of field and value under `forgotten.key`: the journal keeps no value
    seq       0, 1, 2, …
    previous  SHA-256 of the line before, hex; 64 zeros for the first
    mac       HMAC-SHA256 of all the others under the same key

`forgotten.head` names the last line, so that a journal that lost its end is noticed. All of it is the site's
own: it guards against accidents and old copies of one file, not against whoever may write in the home.
"""

import hashlib
import hmac
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fedllm.data.site_key import read_key
from fedllm.disk import write_whole
from fedllm.errors import DataError

JOURNAL, KEY, HEAD, LOCK = "forgotten.jsonl", "forgotten.key", "forgotten.head", "forgotten.lock"

_NOTHING = "0" * 64  # `previous` of the first line
_WAIT = 30.0  # s for another process that reads or writes the journal
_RESTORE = "nothing is trained until it is restored from your backup"


@dataclass(frozen=True)
class Entry:
    """One line: since when records with a certain value in `field` are left out."""

    seq: int
    at: str
    field: str
    value: str  # HMAC, hex


@dataclass(frozen=True)
class Journal:
    """All lines, verified. `key` is empty where no journal was begun."""

    key: bytes = field(default=b"", repr=False)
    entries: tuple[Entry, ...] = ()
    last: str = _NOTHING  # SHA-256 of the last line

    def mark(self, name: str, value: str) -> str:
        """What the journal keeps in the place of a value. Equal means equal after Unicode's NFC."""
        said = json.dumps([name, unicodedata.normalize("NFC", value)]).encode()
        return _hmac(self.key, b"fedllm.forgotten/1 value\n" + said)

    def next_line(self, name: str, value: str) -> tuple["Journal", bytes]:
        """The journal with one entry more, and that entry's line."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        entry = Entry(len(self.entries), at, name, self.mark(name, value))
        body = {**vars(entry), "previous": self.last}
        line = _line(body | {"mac": _mac(self.key, body)})
        return Journal(self.key, (*self.entries, entry), _sha256(line)), line


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Keep other processes from the journal."""
    try:
        with FileLock(home / LOCK, timeout=_WAIT, mode=0o600):
            yield
    except Timeout:
        raise DataError(f"{home / JOURNAL} is in use by another process: try again") from None


def was_begun(home: Path) -> bool:
    """Whether a home holds anything of a journal."""
    return any((home / name).exists() for name in (JOURNAL, KEY, HEAD))


def read_journal(home: Path) -> Journal:
    """Every line, verified. The lock is held.

    Raises:
        DataError: a line is torn or was edited, or the journal, its end or its key is gone.
        IdentityError: the key is open to others or damaged.
    """
    if not was_begun(home):
        return Journal()
    key, data, head = read_key(home / KEY), _bytes(home / JOURNAL), _head(home)
    if key is None:
        raise DataError(f"{home / KEY} is gone, and without it {JOURNAL} means nothing: {_RESTORE}")
    if data is None:
        raise DataError(
            f"{home / JOURNAL} is gone: {_RESTORE}; if no record was ever withdrawn here, remove {KEY}"
        )
    *lines, rest = data.split(b"\n")
    if rest:
        mend = _RESTORE
        if head["seq"] < len(lines):  # the verb that wrote it never said that it was done
            mend = "nothing is trained until you remove that line and run `fedllm data forget` for it again"
        raise DataError(f"{home / JOURNAL}, line {len(lines) + 1} is torn: {mend}")
    entries: list[Entry] = []
    last = _NOTHING
    for number, line in enumerate(lines):
        entries.append(_entry(key, line, number, last, f"{home / JOURNAL}, line {number + 1}"))
        last = _sha256(line)
        if number == head["seq"] and last != head["sha256"]:
            raise DataError(f"{home / JOURNAL}, line {number + 1} is not what {HEAD} names: {_RESTORE}")
    if head["seq"] >= len(lines):
        raise DataError(f"{home / JOURNAL} lost its end, line {head['seq'] + 1}: {_RESTORE}")
    return Journal(key, tuple(entries), last)


def append(home: Path, lines: Sequence[bytes], journal: Journal) -> None:
    """Add whole lines, which make the journal what it is now; where they do not fit, none of them.

    On the disk when this returns. The lock is held.
    """
    data = b"".join(line + b"\n" for line in lines)
    descriptor = os.open(home / JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        try:
            while data:  # a full disk takes a part of it
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
    write_whole(home / HEAD, _line({"seq": len(journal.entries) - 1, "sha256": journal.last}) + b"\n")


def _entry(key: bytes, line: bytes, seq: int, previous: str, where: str) -> Entry:
    try:
        said = json.loads(line)
        right = hmac.compare_digest(said.pop("mac"), _mac(key, said))
    except (ValueError, TypeError, KeyError, AttributeError):
        right = False
    if not right or (said["seq"], said["previous"]) != (seq, previous):
        raise DataError(f"{where} was edited, or {KEY} is not the one it was written with: {_RESTORE}")
    return Entry(seq, said["at"], said["field"], said["value"])


def _head(home: Path) -> dict[str, Any]:
    """The last line that is known to have been whole; seq -1 where none is."""
    data = _bytes(home / HEAD)
    if data is None:
        return {"seq": -1, "sha256": _NOTHING}
    try:
        head = json.loads(data)
        return {"seq": int(head["seq"]), "sha256": str(head["sha256"])}
    except (ValueError, TypeError, KeyError):
        raise DataError(f"{home / HEAD} is damaged: {_RESTORE}") from None


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; {_RESTORE}") from None


def _line(said: Mapping[str, object]) -> bytes:
    return json.dumps(said, sort_keys=True, separators=(",", ":")).encode()


def _mac(key: bytes, said: Mapping[str, object]) -> str:
    return _hmac(key, b"fedllm.forgotten/1 line\n" + _line(said))


def _hmac(key: bytes, data: bytes) -> str:
    return hmac.new(key, data, hashlib.sha256).hexdigest()


def _sha256(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()

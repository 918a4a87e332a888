"""The former journal of withdrawals, a chain of lines in `forgotten.jsonl`: read once for migration.

Each line is compact JSON with sorted keys: `seq`, `at`, `field` and `value` as in `forgotten_file`,
`previous` (SHA-256 of the line before, 64 zeros for the first) and `mac` (HMAC-SHA256 of all other fields
under `forgotten.key`). `forgotten.head` names the last line.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from pathlib import Path

from fedllm.data.forgotten_file import KEY, RESTORE, Withdrawal
from fedllm.disk import sync_folder
from fedllm.errors import DataError

JOURNAL, HEAD = "forgotten.jsonl", "forgotten.head"

_NOTHING = "0" * 64  # `previous` of the first line


def has_former(home: Path) -> bool:
    """Return whether a home holds a file of the former format."""
    return (home / JOURNAL).exists() or (home / HEAD).exists()


def read_former(home: Path, key: bytes) -> tuple[Withdrawal, ...]:
    """Return the entry of every line, verified. Requires the lock.

    Raises:
        DataError: a line is torn or was edited, or the journal or its end is missing.
    """
    data, (last_seq, last_sha256) = _bytes(home / JOURNAL), _head(home)
    if data is None:
        raise DataError(f"{home / JOURNAL} is missing, but {HEAD} names its last line: {RESTORE}")
    *lines, rest = data.split(b"\n")
    if rest:
        mend = RESTORE
        if last_seq < len(lines):  # the command that wrote it never reported success
            mend = "nothing is trained until you remove that line and run `fedllm data forget` for it again"
        raise DataError(f"{home / JOURNAL}, line {len(lines) + 1} is torn: {mend}")
    entries: list[Withdrawal] = []
    previous = _NOTHING
    for number, line in enumerate(lines):
        entries.append(_entry(key, line, number, previous, f"{home / JOURNAL}, line {number + 1}"))
        previous = hashlib.sha256(line).hexdigest()
        if number == last_seq and previous != last_sha256:
            raise DataError(f"{home / JOURNAL}, line {number + 1} is not what {HEAD} names: {RESTORE}")
    if last_seq >= len(lines):
        raise DataError(f"{home / JOURNAL} lost its end, line {last_seq + 1}: {RESTORE}")
    return tuple(entries)


def remove_former(home: Path) -> None:
    """Remove the former files once their entries are in the table."""
    (home / HEAD).unlink(missing_ok=True)  # first: lines without a head are read, a head without lines is not
    (home / JOURNAL).unlink(missing_ok=True)
    sync_folder(home)


def _entry(key: bytes, line: bytes, seq: int, previous: str, where: str) -> Withdrawal:
    try:
        body = json.loads(line)
        right = hmac.compare_digest(body.pop("mac"), _mac(key, body))
    except (ValueError, TypeError, KeyError, AttributeError):
        right = False
    if not right or (body["seq"], body["previous"]) != (seq, previous):
        raise DataError(f"{where} was edited, or {KEY} is not the one it was written with: {RESTORE}")
    return Withdrawal(seq, body["at"], body["field"], body["value"])


def _head(home: Path) -> tuple[int, str]:
    """Return number and SHA-256 of the last line known to be complete; number -1 if there is none."""
    data = _bytes(home / HEAD)
    if data is None:
        return -1, _NOTHING
    try:
        head = json.loads(data)
        return int(head["seq"]), str(head["sha256"])
    except (ValueError, TypeError, KeyError):
        raise DataError(f"{home / HEAD} is damaged: {RESTORE}") from None


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; {RESTORE}") from None


def _mac(key: bytes, body: Mapping[str, object]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return hmac.new(key, b"fedllm.forgotten/1 line\n" + text, hashlib.sha256).hexdigest()

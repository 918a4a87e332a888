"""Records: one JSON object per line, with texts as values."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from fedllm.data.rows import read_rows
from fedllm.disk import write_whole
from fedllm.errors import DataError

Record: TypeAlias = Mapping[str, str]

SILO = "silo"  # the organisation a record comes from
EVERYTHING = "all"  # the group of records without a silo


def group_of(record: Record) -> str:
    """Return the silo that a record names, else `all`."""
    return record.get(SILO, EVERYTHING)


def content(record: Record) -> str:
    """Return what identifies a record: the text, else all fields but `id` and `silo`."""
    if "text" in record:
        return record["text"]
    kept = {key: value for key, value in record.items() if key not in {"id", SILO}}
    return json.dumps(kept, sort_keys=True, ensure_ascii=False)


def distinct(records: Iterable[Record], but: Iterable[Record] = ()) -> list[Record]:
    """Keep the first of equal records, over all silos, and none that `but` holds."""
    seen = {content(record) for record in but}
    kept = []
    for record in records:
        key = content(record)
        if key not in seen:
            seen.add(key)
            kept.append(record)
    return kept


def read_records(path: str | Path) -> list[dict[str, str]]:
    """Read a JSON-lines file; skips empty lines, turns numbers into text.

    Raises:
        DataError: a line is not a record; names the file and the line.
    """
    rows, faults = read_rows(path)
    if faults:
        raise DataError(f"{path}, line {faults[0].line}: {faults[0].reason}")
    return [row.record for row in rows]


def write_records(path: str | Path, records: Iterable[Record]) -> None:
    """Write JSON lines with sorted keys, atomically; the same records give the same bytes."""
    lines = [json.dumps(dict(record), sort_keys=True, ensure_ascii=False) + "\n" for record in records]
    write_bytes(Path(path), "".join(lines).encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` by an atomic rename, unless the file already holds it."""
    if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data, 0o644)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

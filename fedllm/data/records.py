"""Records: one JSON object a line, every value a text."""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from fedllm.disk import write_whole
from fedllm.errors import DataError

log = logging.getLogger(__name__)

Record: TypeAlias = Mapping[str, str]

SILO = "silo"  # the organisation a record comes from
EVERYTHING = "all"  # the group of records that name none


def group_of(record: Record) -> str:
    """The silo that a record names, else `all`."""
    return record.get(SILO, EVERYTHING)


def content(record: Record) -> str:
    """What makes two records the same: the text, else all fields but `id` and `silo`."""
    if "text" in record:
        return record["text"]
    kept = {key: value for key, value in record.items() if key not in {"id", SILO}}
    return json.dumps(kept, sort_keys=True, ensure_ascii=False)


def distinct(records: Iterable[Record], but: Iterable[Record] = ()) -> list[Record]:
    """Keep the first of equal texts, over all silos, and none that `but` holds."""
    seen = {content(record) for record in but}
    kept = []
    for record in records:
        key = content(record)
        if key not in seen:
            seen.add(key)
            kept.append(record)
    return kept


def read_records(path: str | Path) -> list[dict[str, str]]:
    """Read a JSON-lines file; empty lines are passed over, numbers become text.

    Raises:
        DataError: naming the file and the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run `fedllm data fetch`, or name your own file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    records = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            records.append(_record(line, f"{path}, line {number}"))
    if not records:
        raise DataError(f"{path}: holds no records; write one JSON object a line")
    return records


def readable_records(path: str | Path) -> list[dict[str, str]]:
    """As `read_records`, but without lines that cannot be read, which only this process' log hears of.

    Under DP a single record must not end a training, nor change what is said of it.

    Raises:
        DataError: the file cannot be read at all.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    records, wrong = [], 0
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                record = _record(line.decode(), f"{path}, line {number}")
                json.dumps(record, ensure_ascii=False).encode()  # half a surrogate pair is no text
            except (DataError, ValueError, RecursionError):
                wrong += 1
            else:
                records.append(record)
    if wrong:
        log.warning("%s: %d lines cannot be read, and are left out", path, wrong)
    return records


def _record(line: str, where: str) -> dict[str, str]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}); write one object a line") from None
    if not isinstance(value, dict):
        raise DataError(f'{where}: expected an object such as {{"text": …}}, found {type(value).__name__}')
    for key, item in value.items():
        if not isinstance(item, (str, int, float)):
            raise DataError(f"{where}: {key!r} must be a text, found {type(item).__name__}")
    return {key: item if isinstance(item, str) else json.dumps(item) for key, item in value.items()}


def write_records(path: str | Path, records: Iterable[Record]) -> None:
    """Write JSON lines with sorted keys, whole or not at all; the same records give the same bytes."""
    lines = [json.dumps(dict(record), sort_keys=True, ensure_ascii=False) + "\n" for record in records]
    write_bytes(Path(path), "".join(lines).encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Put `data` under `path` by an atomic rename; a file that holds it already is left alone."""
    if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data, 0o644)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

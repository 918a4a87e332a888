"""Read a JSON-lines file into numbered records and numbered faults."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from fedllm.errors import DataError

_BOM = b"\xef\xbb\xbf"  # of UTF-8, which editors on Windows write
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_TABLES = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Row:
    """A record and its line number, from 1."""

    line: int
    record: dict[str, str]


@dataclass(frozen=True)
class Fault:
    """An unusable line and the reason. The reason may quote the record, so it stays at the site."""

    line: int
    reason: str


def read_rows(path: str | Path) -> tuple[list[Row], list[Fault]]:
    """Read a JSON-lines file like `scan_rows`, and require at least one record.

    Raises:
        DataError: the file is absent, unreadable or without a record; with advice.
    """
    rows, faults = scan_rows(path)
    if not rows:
        raise DataError(_why_none(Path(path), faults))
    return rows, faults


def scan_rows(path: str | Path) -> tuple[list[Row], list[Fault]]:
    """Read a JSON-lines file in UTF-8, with or without a byte order mark.

    Empty lines are skipped, numbers become text.

    Returns:
        The records, and the lines that are not records.

    Raises:
        DataError: the file is absent or cannot be read.
    """
    rows: list[Row] = []
    faults: list[Fault] = []
    for number, line in enumerate(_bytes(Path(path)).removeprefix(_BOM).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(Row(number, _record(line)))
        except DataError as error:
            faults.append(Fault(number, str(error)))
        except RecursionError:
            faults.append(Fault(number, "it is nested too deeply"))
    return rows, faults


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run `fedllm data fetch`, or name your own file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _record(line: bytes) -> dict[str, str]:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"cannot be read as UTF-8 text ({error.reason} at byte {error.start + 1}); save it as UTF-8"
        ) from None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError(f"not JSON ({error}); write one object per line") from None
    if not isinstance(value, dict):
        raise DataError(f'expected an object such as {{"text": …}}, found {type(value).__name__}')
    record = {key: _text(key, item) for key, item in value.items()}
    if "\\u" in text:
        try:
            json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise DataError("half of a surrogate pair is not text") from None
    return record


def _text(key: str, item: object) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, (int, float)):
        return json.dumps(item)
    if item is None:
        raise DataError(f"{key!r} is null; write a text, or leave the line out")
    if key == "messages" and isinstance(item, list):
        raise DataError(
            "'messages' is a list; write question and answer as two fields with a text each, such as "
            '{"text": …, "answer": …}, one line for each answer'
        )
    raise DataError(f"{key!r} must be a text, found {type(item).__name__}")


def _why_none(path: Path, faults: list[Fault]) -> str:
    """Return why a file has no records: it is empty, of another format, or the fault of its first line."""
    if not faults:
        return f"{path}: holds no records; write one JSON object per line"
    data = _bytes(path)
    first = data.removeprefix(_BOM).lstrip().partition(b"\n")[0]
    target = path.with_suffix(".jsonl") if path.suffix != ".jsonl" else path.with_stem(f"{path.stem}-lines")
    # Never the same file twice: a shell empties the target first.
    files = f"< {shlex.quote(str(path))} > {shlex.quote(str(target))}"
    if data.startswith(_UTF16):
        return f"{path}: it is UTF-16 and cannot be read as UTF-8 text: save it as UTF-8"
    if first[:1] == b"[":
        code = "import json, sys; [print(json.dumps(row)) for row in json.load(sys.stdin)]"
        return f"{path}: a JSON array; convert it to JSON lines: python3 -c '{code}' {files}"
    separator = max("\t;,", key=lambda mark: first.count(mark.encode()))
    if separator.encode() not in first:
        separator = _TABLES.get(path.suffix.lower(), "")
    if first[:1] == b"{" or not separator or b"\0" in data:
        return f"{path}, line {faults[0].line}: {faults[0].reason}"
    option = "" if separator == "," else f', delimiter="{separator}"'.replace("\t", "\\t")
    code = f"import csv, json, sys; [print(json.dumps(row)) for row in csv.DictReader(sys.stdin{option})]"
    return (
        f"{path}: CSV; convert it to JSON lines, with its first line as the field names: "
        f"python3 -c '{code}' {files}"
    )

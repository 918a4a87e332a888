"""Replace personal data in records by pseudonyms: at the site, offline, without a guarantee.

Patterns and check digits find e-mail addresses, card numbers, IBANs, IP addresses, telephone numbers and
URLs; names are found only from a list that the site gives. A pseudonym is an HMAC under the site's key:
whoever holds the key can test a guess. This is not differential privacy.
"""

import hashlib
import hmac
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from fedllm.data.personal import DIGITS, Finder, Span
from fedllm.data.records import Record, read_records, write_records
from fedllm.data.site_key import site_key
from fedllm.errors import ConfigError, DataError

KEY = "pseudonym.key"  # in a site's home
KEPT = frozenset({"id", "label"})  # never changed


def pseudonym(key: bytes, entity: str, value: str) -> str:
    """Return the first 40 bits of an HMAC-SHA256 of kind and value, such as `<EMAIL:7f3a9c12b4>`.

    Under one key equal values have equal pseudonyms, whatever their spaces, dashes or capitals (a URL's
    capitals count); under two keys only a holder of both can compare. Two values collide by chance in about
    one of three data sets of a million values, and in one of twenty thousand of ten thousand values.
    """
    message = f"fedllm.pseudonym/1\n{entity}\n{_plain(entity, value)}".encode()
    return f"<{entity}:{hmac.new(key, message, hashlib.sha256).hexdigest()[:DIGITS]}>"


def _plain(entity: str, value: str) -> str:
    if entity == "URL":
        return value
    if entity in {"CARD", "IBAN", "PHONE"}:
        return "".join(sign for sign in value if sign.isalnum() or sign == "+").casefold()
    return " ".join(value.split()).casefold()


def anonymize(
    records: Iterable[Record], fields: Sequence[str], finder: Finder, key: bytes
) -> tuple[list[dict[str, str]], Counter[str]]:
    """Replace what `finder` finds in `fields`; all other fields, `id` and `label` are unchanged.

    Returns:
        New records, and how many values of each kind were replaced.

    Raises:
        ConfigError: a field may not be changed.
        DataError: no record has one of the fields.
    """
    _refuse(fields)
    counts: Counter[str] = Counter()
    done, seen = [], set()
    for record in records:
        changed = dict(record)
        for name in fields:
            if name in record:
                seen.add(name)
                changed[name] = _replaced(record[name], finder.spans(record[name]), key, counts.update)
        done.append(changed)
    if absent := sorted(set(fields) - seen):
        raise DataError(f"--fields {', '.join(absent)}: no record has such a field")
    return done, counts


def _refuse(fields: Sequence[str]) -> None:
    if refused := KEPT.intersection(fields):
        raise ConfigError(f"--fields {', '.join(sorted(refused))}: ids and labels are never changed")


def _replaced(text: str, spans: Iterable[Span], key: bytes, count: Callable[[list[str]], None]) -> str:
    parts, at = [], 0
    for span in spans:
        count([span.entity])
        parts += [text[at : span.start], pseudonym(key, span.entity, text[span.start : span.end])]
        at = span.end
    return "".join(parts) + text[at:]


def anonymize_file(
    source: Path, target: Path, fields: Sequence[str], finder: Finder, key: Path
) -> tuple[Counter[str], bool]:
    """Anonymise JSON lines into another file, atomically and with no wider permissions than the source.

    Returns:
        How many values of each kind were replaced, and whether the key is new.

    Raises:
        ConfigError: source and target are the same file, or a field may not be changed.
        DataError: a file cannot be read or written.
        IdentityError: the key cannot be read or made.
    """
    records = read_records(source)
    if target.exists() and target.samefile(source):
        raise ConfigError(f"{target} is the input file: name another file for the output")
    _refuse(fields)
    finder.load()
    secret, drawn = site_key(key)
    done, counts = anonymize(records, fields, finder, secret)
    raw = [json.loads(line) for line in source.read_text(encoding="utf-8").split("\n") if line.strip()]
    changed = [
        whole | {name: new[name] for name in new if new[name] != old[name]}  # numbers stay numbers
        for whole, old, new in zip(raw, records, done, strict=True)
    ]
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            written = Path(folder) / target.name  # in a folder of mode 700
            write_records(written, changed)
            written.chmod(source.stat().st_mode & 0o666)
            written.replace(target)
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror}") from None
    return counts, drawn


def read_names(path: Path) -> list[str]:
    """Read a list of names, one per line. Raises `DataError`."""
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    if not any(names):
        raise DataError(f"{path}: holds no names; write one per line")
    return [name for name in names if name]

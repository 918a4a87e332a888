"""Personal data in records replaced by pseudonyms: at the site, offline, and no guarantee.

Patterns and check digits find e-mail addresses, card numbers, IBANs, IP addresses, telephone numbers and
URLs; of names, those of a list that the site gives, and no others. A pseudonym is an HMAC under the site's
key: who holds the key can test a guess. None of it is differential privacy.
"""

import hashlib
import hmac
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm.data.records import Record, read_records, write_records
from fedllm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from presidio_analyzer import AnalyzerEngine
    from presidio_anonymizer import AnonymizerEngine

KEY = "pseudonym.key"  # in a site's home
ENTITIES = ("EMAIL", "CARD", "IBAN", "IP", "PHONE", "URL")
NAME = "NAME"
KEPT = frozenset({"id", "label"})  # never changed

_DIGITS = 10  # hex digits of a pseudonym: 40 bits
_PSEUDONYM = re.compile(rf"<(?:{'|'.join((*ENTITIES, NAME))}):[0-9a-f]{{{_DIGITS}}}>")
# Wider than presidio's own, which leave out newer cards and whatever has a port or is not HTTP.
_CARD = r"\b\d(?:[ .\-]?\d){12,18}\b"  # ISO/IEC 7812-1: up to 19 digits; the last one is checked (Luhn)
_URL = r"(?i)\b[a-z][a-z0-9+.\-]*://[^\s()<>\"']*[^\s()<>\"'.,;:!?]"  # RFC 3986: any scheme
_ANY_LENGTH = 2**31  # characters; a tokenizer without a model needs no limit


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` of a text, and what they are."""

    start: int
    end: int
    entity: str

    def meets(self, other: "Span") -> bool:
        """Whether a character is in both."""
        return self.start < other.end and other.start < self.end


class Finder:
    """Finds personal data in texts. Nothing is fetched: no model, no list of domain suffixes."""

    def __init__(self, language: str = "en", names: Sequence[str] = (), regions: Sequence[str] = ()) -> None:
        """Build the recognisers.

        Args:
            language: of the texts; it says how they are cut into words.
            names: found wherever they stand as whole words, in any case.
            regions: countries (ISO 3166, two letters) whose national telephone numbers are looked for, beside
                presidio's own: US, GB, DE, FR, IL, IN, CA, BR. Numbers that begin with + are found of all.

        Raises:
            ConfigError: presidio is not installed, or knows no such language or region.
        """
        try:
            self._analyzer, self._resolver = _engines(language, names, regions)
        except ImportError as error:
            if (error.name or "").partition(".")[0] in {"presidio_analyzer", "presidio_anonymizer", "spacy"}:
                raise ConfigError("presidio is not here: pip install 'fedllm[anonymize]'") from None
            raise ConfigError(f"no texts can be read in the language {language!r}: {error.msg}") from None
        self._language = language

    def spans(self, text: str) -> list[Span]:
        """What was found, in order and without overlaps.

        Pseudonyms are passed over: no digits in them are a number. What was found is covered and the rest
        looked at again, since a number beside another can hide it.
        """
        plain = _PSEUDONYM.sub(lambda match: _covered(match[0]), text)
        found: list[Span] = []
        while more := [span for span in self._look(plain) if not any(map(span.meets, found))]:
            found += more
            for span in more:
                plain = plain[: span.start] + _covered(plain[span.start : span.end]) + plain[span.end :]
        return sorted(found, key=lambda span: span.start)

    def _look(self, text: str) -> list[Span]:
        from presidio_anonymizer.entities import ConflictResolutionStrategy, OperatorConfig

        # Neighbours are not merged: two addresses side by side are two pseudonyms.
        resolved = self._resolver.anonymize(
            text,
            self._analyzer.analyze(text, self._language),
            operators={"DEFAULT": OperatorConfig("keep")},
            conflict_resolution=ConflictResolutionStrategy.REMOVE_INTERSECTIONS,
            merge_entities_with_spaces=False,
        )
        return [Span(item.start, item.end, item.entity_type) for item in resolved.items]


def _covered(text: str) -> str:
    """As long, and of a character that none of the patterns takes or crosses."""
    return "<" * len(text)


def pseudonym(key: bytes, entity: str, value: str) -> str:
    """Such as `<EMAIL:7f3a9c12b4>`: HMAC-SHA256 of kind and value, its first 40 bits.

    Under one key equal values are equal pseudonyms, however they are spaced, dashed or capitalised (a URL's
    capitals count); under two keys nobody who lacks both can tell. Two values of a million meet by chance in
    about one of three data sets that large, of ten thousand in one of twenty thousand.
    """
    said = f"fedllm.pseudonym/1\n{entity}\n{_plain(entity, value)}".encode()
    return f"<{entity}:{hmac.new(key, said, hashlib.sha256).hexdigest()[:_DIGITS]}>"


def _plain(entity: str, value: str) -> str:
    if entity == "URL":
        return value
    if entity in {"CARD", "IBAN", "PHONE"}:
        return "".join(sign for sign in value if sign.isalnum() or sign == "+").casefold()
    return " ".join(value.split()).casefold()


def anonymize(
    records: Iterable[Record], fields: Sequence[str], finder: Finder, key: bytes
) -> tuple[list[dict[str, str]], Counter[str]]:
    """Replace what `finder` finds in `fields`; all other fields, `id` and `label` stay as they are.

    Returns:
        New records, and how many values of each kind were replaced.

    Raises:
        ConfigError: a field may not be changed.
        DataError: no record has one of the fields.
    """
    if refused := KEPT.intersection(fields):
        raise ConfigError(f"--fields {', '.join(sorted(refused))}: ids and labels are never changed")
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


def _replaced(text: str, spans: Iterable[Span], key: bytes, count: Callable[[list[str]], None]) -> str:
    parts, at = [], 0
    for span in spans:
        count([span.entity])
        parts += [text[at : span.start], pseudonym(key, span.entity, text[span.start : span.end])]
        at = span.end
    return "".join(parts) + text[at:]


def anonymize_file(source: Path, target: Path, fields: Sequence[str], finder: Finder, key: bytes) -> Counter[str]:
    """Anonymise JSON lines into another file, whole or not at all, that is no wider open than the first.

    Raises:
        ConfigError: it would write over what it reads.
        DataError: a file cannot be read or written.
    """
    records = read_records(source)
    if target.exists() and target.samefile(source):
        raise ConfigError(f"{target} is what is read: name another file to write to")
    done, counts = anonymize(records, fields, finder, key)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            written = Path(folder) / target.name  # in a folder of mode 700
            write_records(written, done)
            written.chmod(source.stat().st_mode & 0o666)
            written.replace(target)
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror}") from None
    return counts


def read_names(path: Path) -> list[str]:
    """A list of names, one a line. Raises `DataError`."""
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    if not any(names):
        raise DataError(f"{path}: holds no names; write one a line")
    return [name for name in names if name]


def _engines(
    language: str, names: Sequence[str], regions: Sequence[str]
) -> tuple["AnalyzerEngine", "AnonymizerEngine"]:
    import phonenumbers
    import spacy
    from presidio_analyzer import AnalyzerEngine, Pattern, PatternRecognizer, RecognizerRegistry
    from presidio_analyzer import predefined_recognizers as known
    from presidio_analyzer.nlp_engine import SpacyNlpEngine
    from presidio_anonymizer import AnonymizerEngine

    if unknown := sorted(set(regions) - phonenumbers.SUPPORTED_REGIONS):
        raise ConfigError(f"--region {', '.join(unknown)}: name a country by two letters, such as IT")
    words = spacy.blank(language)
    words.max_length = _ANY_LENGTH
    nlp = SpacyNlpEngine(models=[{"lang_code": language, "model_name": "blank"}])
    nlp.nlp = {language: words}  # in place of `load`, which would download a model

    def named(entity: str) -> dict[str, Any]:
        return {"supported_entity": entity, "supported_language": language}

    recognizers = [
        # Its patterns alone: EmailRecognizer itself fetches a list of public domain suffixes and passes over
        # what is not on it, such as the addresses of a house's own network.
        PatternRecognizer(patterns=known.EmailRecognizer.PATTERNS, name="email", **named("EMAIL")),
        known.CreditCardRecognizer(
            patterns=[*known.CreditCardRecognizer.PATTERNS, Pattern("digits", _CARD, 0.3)],
            replacement_pairs=[(sign, "") for sign in " -."],
            **named("CARD"),
        ),
        known.IbanRecognizer(regex_flags=re.MULTILINE | re.IGNORECASE, **named("IBAN")),
        known.IpRecognizer(**named("IP")),
        known.PhoneRecognizer(
            supported_regions=(*known.PhoneRecognizer.DEFAULT_SUPPORTED_REGIONS, *regions), **named("PHONE")
        ),
        known.UrlRecognizer(
            patterns=[*known.UrlRecognizer.PATTERNS, Pattern("scheme", _URL, 0.6)], **named("URL")
        ),
    ]
    if names:
        recognizers.append(PatternRecognizer(deny_list=list(names), name="names", **named(NAME)))
    registry = RecognizerRegistry(recognizers=recognizers, supported_languages=[language])
    analyzer = AnalyzerEngine(registry=registry, nlp_engine=nlp, supported_languages=[language])
    return analyzer, AnonymizerEngine()

"""Finds personal data in texts by patterns and check digits, with presidio, offline.

No model is loaded, so names are found only where a list has them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fedllm.errors import ConfigError

if TYPE_CHECKING:
    from presidio_analyzer import AnalyzerEngine
    from presidio_anonymizer import AnonymizerEngine

ENTITIES = ("EMAIL", "CARD", "IBAN", "IP", "PHONE", "URL")
NAME = "NAME"
DIGITS = 10  # hex digits of a pseudonym: 40 bits

_PSEUDONYM = re.compile(rf"<(?:{'|'.join((*ENTITIES, NAME))}):[0-9a-f]{{{DIGITS}}}>")
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
        """Say what is looked for.

        Args:
            language: of the texts; it says how they are cut into words.
            names: found wherever they stand as whole words, in any case.
            regions: countries (ISO 3166, two letters) whose national telephone numbers are looked for, beside
                presidio's own: US, GB, DE, FR, IL, IN, CA, BR. Numbers that begin with + are found of all.
        """
        self._language, self._names, self._regions = language, names, regions

    def load(self) -> None:
        """Build the recognisers, seconds of imports, unless that was done.

        Raises:
            ConfigError: presidio is not installed, or knows no such language or region.
        """
        _ = self._engines

    @cached_property
    def _engines(self) -> tuple["AnalyzerEngine", "AnonymizerEngine"]:
        try:
            return _engines(self._language, self._names, self._regions)
        except ImportError as error:
            if (error.name or "").partition(".")[0] in {"presidio_analyzer", "presidio_anonymizer", "spacy"}:
                raise ConfigError("presidio is not installed: pip install 'fedllm[anonymize]'") from None
            raise ConfigError(f"texts in {self._language!r} cannot be read: {error.msg}") from None

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

        analyzer, resolver = self._engines
        # Neighbours are not merged: two addresses side by side are two pseudonyms.
        resolved = resolver.anonymize(
            text,
            analyzer.analyze(text, self._language),
            operators={"DEFAULT": OperatorConfig("keep")},
            conflict_resolution=ConflictResolutionStrategy.REMOVE_INTERSECTIONS,
            merge_entities_with_spaces=False,
        )
        return [Span(item.start, item.end, item.entity_type) for item in resolved.items]


def _covered(text: str) -> str:
    """As long, and of a character that none of the patterns takes or crosses."""
    return "<" * len(text)


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

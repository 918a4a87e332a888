"""How well `anonymize` finds: personal data of many formats planted into real texts, and found or not.

Formats were chosen by how people write, before looking at what is found, and are drawn evenly: rare and
awkward ones count as much as common ones. All values are invented; check digits are right.
"""

import random
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fedllm.data.anonymize import Finder, Span
from fedllm.errors import DataError

RULE = (
    "right: one finding of the kind planted that covers every character of the value; found and not planted "
    "counts as wrong, also where the text had it before"
)

_SENTENCES = (  # where the corpus cannot be had
    "The battery lasted two days and then never charged again.",
    "I would buy this a second time without thinking twice.",
    "Nobody at the counter could tell me when it would arrive.",
    "A slow beginning, but the last half hour is worth the ticket.",
    "They promised a refund in March and it is July now.",
)
_CARRIERS = ("{}", "({})", "{},", "{}.", '"{}"', ": {}", "{};")  # what stands around a value
_WORDS = "river stone maple cobalt harbor violet lantern meadow copper falcon juniper willow".split()
_PEOPLE = "anna bjorn carla deniz emil fatima goran hanna ivan julia kemal lena".split()
_TLDS = ("com", "org", "net", "de", "co.uk", "fr", "io", "eu", "info", "museum")


@dataclass(frozen=True)
class Score:
    """Counts of one kind: values planted, findings, right ones, and values of which no character is left."""

    planted: int = 0
    found: int = 0
    right: int = 0
    hidden: int = 0

    def __add__(self, other: "Score") -> "Score":
        return Score(
            self.planted + other.planted,
            self.found + other.found,
            self.right + other.right,
            self.hidden + other.hidden,
        )

    def json(self) -> dict[str, object]:
        """The counts, precision, recall, F1, and the share hidden."""
        return {
            "planted": self.planted,
            "found": self.found,
            "right": self.right,
            "precision": round(self.right / max(1, self.found), 4),
            "recall": round(self.right / max(1, self.planted), 4),
            "f1": round(2 * self.right / max(1, self.found + self.planted), 4),
            "hidden": round(self.hidden / max(1, self.planted), 4),
        }


def measure(finder: Finder, texts: Sequence[str], *, each: int = 200, seed: int = 1) -> dict[str, Score]:
    """Plant `each` values of every kind, one a text, and leave as many texts without."""
    draw = random.Random(seed)  # noqa: S311 - test data
    scores = {kind: Score() for kind in _KINDS}
    for kind, formats in _KINDS.items():
        for number in range(each):
            value = formats[number % len(formats)](draw)
            text, planted = _plant(draw, draw.choice(texts), value, kind)
            _judge(finder.spans(text), planted, scores)
            _judge(finder.spans(draw.choice(texts)), None, scores)
    return scores


def corpus() -> tuple[str, list[str]]:
    """The sentiment corpus' texts where they can be had, else a handful of sentences; and their name."""
    from fedllm.data.sources import load_source

    try:
        return "sentiment", [record["text"] for record in load_source("sentiment")]
    except DataError:
        return "five sentences", list(_SENTENCES)


def _plant(draw: random.Random, text: str, value: str, kind: str) -> tuple[str, Span]:
    """The value between two words."""
    words = text.split(" ")
    at = draw.randint(0, len(words))
    before, _, after = draw.choice(_CARRIERS).partition("{}")
    head = " ".join([*words[:at], before]) if at else before
    tail = " ".join([after, *words[at:]]) if at < len(words) else after
    return head + value + tail, Span(len(head), len(head) + len(value), kind)


def _judge(found: Sequence[Span], planted: Span | None, scores: dict[str, Score]) -> None:
    for span in found:
        scores[span.entity] += Score(found=1)
    if planted is not None:
        whole = any(
            span.entity == planted.entity and span.start <= planted.start and planted.end <= span.end
            for span in found
        )
        left = set(range(planted.start, planted.end))
        for span in found:
            left -= set(range(span.start, span.end))
        scores[planted.entity] += Score(planted=1, right=whole, hidden=not left)


def _digits(draw: random.Random, count: int) -> str:
    return "".join(draw.choices(string.digits, k=count))


def _grouped(digits: str, sizes: Sequence[int], sign: str) -> str:
    parts, at = [], 0
    for size in sizes:
        parts.append(digits[at : at + size])
        at += size
    return sign.join(part for part in (*parts, digits[at:]) if part)


def _fours(digits: str, sign: str) -> str:
    return _grouped(digits, [4] * (len(digits) // 4), sign)


def _domain(draw: random.Random) -> str:
    return f"{draw.choice(_WORDS)}{draw.choice(('-', ''))}{draw.choice(_WORDS)}.{draw.choice(_TLDS)}"


def _person(draw: random.Random, sign: str = ".") -> str:
    return f"{draw.choice(_PEOPLE)}{sign}{draw.choice(_WORDS)}"


def _card(draw: random.Random, prefix: str, length: int = 16) -> str:
    """ISO/IEC 7812-1: the last digit makes the Luhn sum a multiple of ten."""
    body = prefix + _digits(draw, length - 1 - len(prefix))
    doubled = [int(digit) * (2 - at % 2) for at, digit in enumerate(reversed(body))]
    return body + str(-sum(value // 10 + value % 10 for value in doubled) % 10)


def _iban(draw: random.Random, country: str, form: str) -> str:
    """ISO 13616: `n` a digit, `a` a capital letter; check digits by ISO 7064 modulo 97."""
    letters = {"n": string.digits, "a": string.ascii_uppercase}
    account = "".join(draw.choice(letters[sign]) for sign in form)
    number = "".join(str(int(sign, 36)) for sign in f"{account}{country}00")
    return f"{country}{98 - int(number) % 97:02d}{account}"


def _v6(draw: random.Random) -> list[str]:
    return [f"{draw.randrange(1, 65536):x}" for _ in range(8)]


def _v4(draw: random.Random) -> str:
    return ".".join(str(draw.randrange(1, 255)) for _ in range(4))


def _local(draw: random.Random) -> str:
    """Seven digits of a North American number."""
    return f"{draw.randrange(2, 10)}{_digits(draw, 6)}"


Format = Callable[[random.Random], str]

_EMAILS: tuple[Format, ...] = (
    lambda draw: f"{_person(draw)}@{_domain(draw)}",
    lambda draw: f"{_person(draw, '_')}{_digits(draw, 2)}@{_domain(draw)}",
    lambda draw: f"{_person(draw, '')}+{draw.choice(_WORDS)}@{_domain(draw)}",
    lambda draw: f"{draw.choice('abc')}.o'{draw.choice(_WORDS)}@mail.{_domain(draw)}",
    lambda draw: f"{_person(draw)}@{_domain(draw)}".upper(),
    lambda draw: f"{_person(draw)}@intranet.local",
    lambda draw: f"{_person(draw)}@bücher-{draw.choice(_WORDS)}.de",
    lambda draw: f"{_person(draw)} [at] {draw.choice(_WORDS)} [dot] {draw.choice(_TLDS)}",
    lambda draw: f"{_person(draw)}(at){_domain(draw)}",
)
_CARDS: tuple[Format, ...] = (
    lambda draw: _card(draw, "4"),
    lambda draw: _fours(_card(draw, "4"), " "),
    lambda draw: _fours(_card(draw, draw.choice(("51", "55"))), "-"),
    lambda draw: _fours(_card(draw, "2221"), " "),
    lambda draw: _fours(_card(draw, "6011"), " "),
    lambda draw: _card(draw, "34", 15),
    lambda draw: _grouped(_card(draw, "37", 15), (4, 6), " "),
    lambda draw: _fours(_card(draw, "4"), "."),
    lambda draw: _grouped(_card(draw, "54"), (8,), " "),
    lambda draw: _card(draw, "6304", 19),
)
_IBANS: tuple[Format, ...] = (
    lambda draw: _iban(draw, "DE", "n" * 18),
    lambda draw: _fours(_iban(draw, "DE", "n" * 18), " "),
    lambda draw: _fours(_iban(draw, "GB", "aaaa" + "n" * 14), " "),
    lambda draw: _iban(draw, "FR", "n" * 10 + "a" * 11 + "nn"),
    lambda draw: _fours(_iban(draw, "NL", "aaaa" + "n" * 10), "-"),
    lambda draw: _fours(_iban(draw, "NO", "n" * 11), " "),
    lambda draw: _fours(_iban(draw, "PL", "n" * 24), " "),
    lambda draw: _fours(_iban(draw, "CH", "n" * 17), " ").lower(),
    lambda draw: _fours(_iban(draw, "DE", "n" * 18), "."),
)
_IPS: tuple[Format, ...] = (
    _v4,
    lambda draw: f"10.{draw.randrange(256)}.{draw.randrange(256)}.{draw.randrange(1, 255)}",
    lambda draw: ":".join(_v6(draw)),
    lambda draw: ":".join(part.zfill(4) for part in _v6(draw)).upper(),
    lambda draw: f"2001:db8::{_v6(draw)[0]}:{_v6(draw)[0]}",
    lambda draw: f"fe80::{_v6(draw)[0]}%eth0",
    lambda draw: f"::ffff:{_v4(draw)}",
    lambda draw: f"172.16.{draw.randrange(256)}.0/24",
)
_PHONES: tuple[Format, ...] = (
    lambda draw: f"+1{draw.choice(('212', '415', '312'))}{_local(draw)}",
    lambda draw: f"({draw.choice(('212', '415', '312'))}) {_grouped(_local(draw), (3,), '-')}",
    lambda draw: f"{draw.choice(('212', '415', '312'))}.{_grouped(_local(draw), (3,), '.')}",
    lambda draw: f"1-800-{_grouped(_local(draw), (3,), '-')} ext. {_digits(draw, 3)}",
    lambda draw: f"+44 20 7{_digits(draw, 3)} {_digits(draw, 4)}",
    lambda draw: f"+49 (0)30 {draw.randrange(2, 10)}{_digits(draw, 6)}",
    lambda draw: f"089/{draw.randrange(2, 10)}{_digits(draw, 6)}",
    lambda draw: "06 " + _grouped(f"{draw.randrange(1, 10)}{_digits(draw, 7)}", (2, 2, 2), " "),
    lambda draw: f"+39 06 {draw.randrange(4, 9)}{_digits(draw, 3)} {_digits(draw, 4)}",
    lambda draw: f"08-{draw.randrange(1, 9)}{_digits(draw, 2)} {_digits(draw, 3)} {_digits(draw, 2)}",  # Sweden
    lambda draw: f"0049 171 {draw.randrange(2, 10)}{_digits(draw, 6)}",
    lambda draw: ("415-" + _grouped(_local(draw), (3,), "-")).replace("-", "\u2011"),  # a hyphen that binds
    lambda draw: ".".join(["06", *(_digits(draw, 2) for _ in range(4))]),
)
_URLS: tuple[Format, ...] = (
    lambda draw: f"https://{_domain(draw)}/{draw.choice(_WORDS)}/{_digits(draw, 5)}",
    lambda draw: f"http://www.{_domain(draw)}",
    lambda draw: f"www.{_domain(draw)}/~{_person(draw, '')}",
    lambda draw: f"{_domain(draw)}/{_person(draw)}?id={_digits(draw, 6)}&ref=a",
    lambda draw: f"https://{_domain(draw)}:8443/{draw.choice(_WORDS)}",
    lambda draw: f"https://social.{_domain(draw)}/@{_person(draw, '_')}#bio",
    lambda draw: f"ftp://files.{_domain(draw)}/{_person(draw)}.txt",
    lambda draw: f"http://{_v4(draw)}/admin/{_person(draw)}",
    lambda draw: f"https://{_person(draw)}:{_digits(draw, 4)}@{_domain(draw)}/",
    lambda draw: f"HTTPS://{_domain(draw).upper()}/{_digits(draw, 4)}",
)

_KINDS: Mapping[str, Sequence[Format]] = {
    "EMAIL": _EMAILS,
    "CARD": _CARDS,
    "IBAN": _IBANS,
    "IP": _IPS,
    "PHONE": _PHONES,
    "URL": _URLS,
}

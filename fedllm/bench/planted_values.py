"""Invented personal data in many formats, for measuring what `anonymize` finds; check digits are right.

Formats were chosen by how people write, not by what is found, and are drawn evenly: rare and awkward ones
count as much as common ones.
"""

import random
import string
from collections.abc import Callable, Mapping, Sequence

_WORDS = (
    "river",
    "stone",
    "maple",
    "cobalt",
    "harbor",
    "violet",
    "lantern",
    "meadow",
    "copper",
    "falcon",
    "juniper",
    "willow",
)
_PEOPLE = (
    "anna",
    "bjorn",
    "carla",
    "deniz",
    "emil",
    "fatima",
    "goran",
    "hanna",
    "ivan",
    "julia",
    "kemal",
    "lena",
)
_TLDS = ("com", "org", "net", "de", "co.uk", "fr", "io", "eu", "info", "museum")

Format = Callable[[random.Random], str]


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
    lambda draw: (
        f"08-{draw.randrange(1, 9)}{_digits(draw, 2)} {_digits(draw, 3)} {_digits(draw, 2)}"
    ),  # Sweden
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

KINDS: Mapping[str, Sequence[Format]] = {
    "EMAIL": _EMAILS,
    "CARD": _CARDS,
    "IBAN": _IBANS,
    "IP": _IPS,
    "PHONE": _PHONES,
    "URL": _URLS,
}

"""Invented personal data in many formats, for measuring what `anonymize` finds; Faker makes the values.

Check digits of cards and IBANs are Faker's. Telephone numbers are drawn until the country's numbering plan
has them. Formats were chosen by how people write, not by what is found, and are drawn evenly: rare and
awkward ones count as much as common ones.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from ipaddress import IPv6Address

from faker import Faker
from phonenumbers import NumberParseException, is_valid_number, parse

_US, _GB, _DE, _FR, _IL, _IN, _CA, _BR = (
    "en_US",
    "en_GB",
    "de_DE",
    "fr_FR",
    "he_IL",
    "en_IN",
    "en_CA",
    "pt_BR",
)
_IT, _SE, _NL, _ES, _NO, _PL, _CH = "it_IT", "sv_SE", "nl_NL", "es_ES", "no_NO", "pl_PL", "de_CH"
_LOCALES = [_US, _GB, _DE, _FR, _IL, _IN, _CA, _BR, _IT, _SE, _NL, _ES, _NO, _PL, _CH]

Format = Callable[[Faker], str]


def seeded(seed: int) -> Faker:
    """What the formats draw from; the same seed gives the same values."""
    fake = Faker(_LOCALES)
    fake.seed_instance(seed)
    return fake


def _grouped(text: str, sizes: Sequence[int], sign: str) -> str:
    parts, at = [], 0
    for size in sizes:
        parts.append(text[at : at + size])
        at += size
    return sign.join(part for part in (*parts, text[at:]) if part)


def _fours(text: str, sign: str) -> str:
    return _grouped(text, [4] * (len(text) // 4), sign)


def _user(fake: Faker) -> str:
    return fake[_US].user_name()


def _domain(fake: Faker) -> str:
    return fake[_US].domain_name()


def _word(fake: Faker) -> str:
    return fake[_US].word()


def _card(fake: Faker, kind: str) -> str:
    return fake[_US].credit_card_number(kind)


def _iban(fake: Faker, locale: str) -> str:
    return fake[locale].iban()


def _v4(fake: Faker) -> str:
    return fake[_US].ipv4_public()


def _v6(fake: Faker) -> IPv6Address:
    return IPv6Address(fake[_US].ipv6())


def _phone(fake: Faker, locale: str, begins: str = "") -> str:
    """As Faker writes a country's numbers; most of its digits are no number of that country."""
    while True:
        number = fake[locale].phone_number()
        try:
            if number.startswith(begins) and is_valid_number(parse(number, locale[-2:])):
                return number
        except NumberParseException:
            continue


_EMAILS: tuple[Format, ...] = (
    lambda fake: fake[_US].email(),
    lambda fake: fake[_DE].company_email(),
    lambda fake: fake[_FR].free_email(),
    lambda fake: f"{_user(fake)}+{_word(fake)}@{_domain(fake)}",
    lambda fake: f"j.o'{_user(fake)}@mail.{_domain(fake)}",
    lambda fake: fake[_US].email().upper(),
    lambda fake: f"{_user(fake)}@intranet.local",
    lambda fake: f"{_user(fake)}@bücher-{_word(fake)}.de",
    lambda fake: f"{_user(fake)} [at] {_word(fake)} [dot] {fake[_US].tld()}",
    lambda fake: f"{_user(fake)}(at){_domain(fake)}",
)
_CARDS: tuple[Format, ...] = (
    lambda fake: _card(fake, "visa16"),
    lambda fake: _fours(_card(fake, "visa16"), " "),
    lambda fake: _fours(_card(fake, "mastercard"), "-"),
    lambda fake: _fours(_card(fake, "discover"), " "),
    lambda fake: _fours(_card(fake, "jcb16"), " "),
    lambda fake: _card(fake, "amex"),
    lambda fake: _grouped(_card(fake, "amex"), (4, 6), " "),
    lambda fake: _grouped(_card(fake, "diners"), (4, 6), "-"),
    lambda fake: _fours(_card(fake, "visa16"), "."),
    lambda fake: _grouped(_card(fake, "mastercard"), (8,), " "),
)
_IBANS: tuple[Format, ...] = (
    lambda fake: _iban(fake, _DE),
    lambda fake: _fours(_iban(fake, _DE), " "),
    lambda fake: _fours(_iban(fake, _GB), " "),
    lambda fake: _iban(fake, _FR),
    lambda fake: _fours(_iban(fake, _NL), "-"),
    lambda fake: _fours(_iban(fake, _NO), " "),
    lambda fake: _fours(_iban(fake, _PL), " "),
    lambda fake: _fours(_iban(fake, _CH), " ").lower(),
    lambda fake: _fours(_iban(fake, _DE), "."),
)
_IPS: tuple[Format, ...] = (
    _v4,
    lambda fake: fake[_US].ipv4_private(),
    lambda fake: fake[_US].ipv6(),
    lambda fake: _v6(fake).exploded.upper(),
    lambda fake: f"2001:db8::{_v6(fake).exploded[-9:]}",
    lambda fake: f"fe80::{_v6(fake).exploded[-4:]}%eth0",
    lambda fake: f"::ffff:{_v4(fake)}",
    lambda fake: fake[_US].ipv4_private(network=True),
)
_PHONES: tuple[Format, ...] = (
    *(partial(_phone, locale=locale) for locale in (_US, _GB, _DE, _FR, _IL, _IN, _CA, _BR)),
    *(partial(_phone, locale=locale, begins="+") for locale in (_IT, _NL, _ES)),
    partial(_phone, locale=_SE),  # also as it is written at home
    lambda fake: _phone(fake, _PL, "+").replace("+", "00"),
    lambda fake: _phone(fake, _US, "(").replace("-", "\u2011"),  # a hyphen that binds
    lambda fake: _phone(fake, _FR, "0").replace(" ", "."),
)
_URLS: tuple[Format, ...] = (
    lambda fake: fake[_US].uri(),
    lambda fake: fake[_DE].url(),
    lambda fake: f"www.{_domain(fake)}/~{_user(fake)}",
    lambda fake: f"{_domain(fake)}/{_user(fake)}?id={fake[_US].pyint()}&ref=a",
    lambda fake: f"https://{_domain(fake)}:8443/{_word(fake)}",
    lambda fake: f"https://social.{_domain(fake)}/@{_user(fake)}#bio",
    lambda fake: f"ftp://files.{_domain(fake)}/{_user(fake)}.txt",
    lambda fake: f"http://{_v4(fake)}/admin/{_user(fake)}",
    lambda fake: f"https://{_user(fake)}:{fake[_US].pyint()}@{_domain(fake)}/",
    lambda fake: fake[_US].uri().upper(),
)

KINDS: Mapping[str, Sequence[Format]] = {
    "EMAIL": _EMAILS,
    "CARD": _CARDS,
    "IBAN": _IBANS,
    "IP": _IPS,
    "PHONE": _PHONES,
    "URL": _URLS,
}

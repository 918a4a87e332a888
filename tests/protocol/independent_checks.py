"""What may stand in a field: the types of docs/protocol.md, as functions that say whether a value is one."""

import math
import re
from collections.abc import Callable
from typing import Any

Check = Callable[[Any], bool]


class RefusedError(ValueError):
    """Not what docs/protocol.md describes."""


def matches(pattern: str) -> Check:
    return lambda found: isinstance(found, str) and re.fullmatch(pattern, found) is not None


def text(most: int) -> Check:
    return lambda found: isinstance(found, str) and len(found) <= most


def whole(least: int = 0, most: float = 2**53 - 1) -> Check:
    return lambda found: type(found) is int and least <= found <= most


def number(
    above: float = -math.inf, *, least: float = -math.inf, below: float = math.inf, most: float = math.inf
) -> Check:
    return lambda found: (
        type(found) in {int, float} and found > above and least <= found < below and found <= most
    )


def one_of(*allowed: str) -> Check:
    return lambda found: isinstance(found, str) and found in allowed


def or_null(check: Check) -> Check:
    return lambda found: found is None or check(found)


def list_of(check: Check, most: float = math.inf) -> Check:
    return lambda found: isinstance(found, list) and len(found) <= most and all(map(check, found))


def map_of(keys: Check, values: Check, most: float = math.inf) -> Check:
    return lambda found: (
        isinstance(found, dict)
        and len(found) <= most
        and all(map(keys, found))
        and all(map(values, found.values()))
    )


def object_of(needed: dict[str, Check], spared: dict[str, Check] | None = None) -> Check:
    """An object of exactly these fields; `spared` are those that may be left out."""
    known = needed | (spared or {})
    return lambda found: (
        isinstance(found, dict)
        and needed.keys() <= found.keys() <= known.keys()
        and all(known[name](value) for name, value in found.items())
    )


NAME = RUN = matches(r"[a-z0-9][a-z0-9-]{0,62}")
SHA = matches(r"[0-9a-f]{64}")
AGE = matches(r"age1[0-9a-z]{58}")
COUNT, TEXT = whole(), text(2000)
FINITE = number()

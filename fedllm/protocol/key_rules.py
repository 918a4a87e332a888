"""Check object keys: they may come from a message, so a key with more than one reading is refused."""

import re

from fedllm.errors import RefusedError

LONGEST = 512  # characters, as in `messages.Sealed`

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)


def checked_key(key: str) -> str:
    """Return `key` unchanged if it is valid.

    Raises:
        RefusedError: the key is too long, or a part is empty or has a character that is not allowed there.
    """
    if len(key) > LONGEST or not all(_PART.fullmatch(part) for part in key.split("/")):
        raise RefusedError(f"{key[:80]!r} is no key: use parts of A-Z, a-z, 0-9, '.', '_' and '-'")
    return key


def checked_prefix(prefix: str) -> str:
    """Return `prefix` unchanged if it is empty or a valid key, with or without a slash at its end.

    Raises:
        RefusedError: no key can begin with it.
    """
    if prefix and prefix != "/":
        checked_key(prefix.removesuffix("/"))
    elif prefix:
        raise RefusedError("'/' begins no key")
    return prefix

"""Which keys exist at all. A key may come from a message: one that could mean two things is refused."""

import re

from fedllm.errors import RefusedError

LONGEST = 512  # characters, as in `messages.Sealed`

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)


def checked_key(key: str) -> str:
    """`key`, when each part between slashes is plain: no `..`, no empty part, no escape, nothing hidden.

    Raises:
        RefusedError: Otherwise.
    """
    if len(key) > LONGEST or not all(_PART.fullmatch(part) for part in key.split("/")):
        raise RefusedError(f"{key[:80]!r} is no key: use parts of A-Z, a-z, 0-9, '.', '_' and '-'")
    return key


def checked_prefix(prefix: str) -> str:
    """`prefix`, when it is empty, ends a part, or could begin a key.

    Raises:
        RefusedError: Otherwise.
    """
    if prefix and prefix != "/":
        checked_key(prefix.removesuffix("/"))
    elif prefix:
        raise RefusedError("'/' begins no key")
    return prefix

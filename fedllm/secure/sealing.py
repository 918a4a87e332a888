"""Seal bytes for named recipients in the age format: one file with one stanza per recipient.

Sealing encrypts but does not authenticate the sender. The content is trusted only if a signed message has its
SHA-256, so nothing is parsed here.
"""

from collections.abc import Sequence

import pyrage

from fedllm.errors import IdentityError, RefusedError
from fedllm.secure.identity import Identity


def seal(data: bytes, recipients: Sequence[str]) -> bytes:
    """Encrypt `data` so that only the `recipients` (age X25519, `age1…`) can decrypt it.

    Sealing the same bytes twice gives different files: age generates a new file key each time.

    Raises:
        IdentityError: There is no recipient, or one is no age key.
    """
    if not recipients:
        raise IdentityError("cannot seal for nobody: name at least one recipient")
    keys = []
    for recipient in sorted(set(recipients)):
        try:
            keys.append(pyrage.x25519.Recipient.from_str(recipient))
        except pyrage.RecipientError:
            raise IdentityError(f"{recipient!r} is no age recipient: ask its owner for the card") from None
    sealed: bytes = pyrage.encrypt(data, keys)
    return sealed


def unseal(data: bytes, identity: Identity) -> bytes:
    """Decrypt bytes that were sealed for `identity`.

    Raises:
        RefusedError: The bytes were sealed for others, or changed.
    """
    try:
        opened: bytes = pyrage.decrypt(data, [identity.opening])
    except pyrage.DecryptError:
        raise RefusedError(f"not sealed for {identity.name}, or damaged") from None
    return opened

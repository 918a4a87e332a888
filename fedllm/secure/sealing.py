"""Sealing bytes for named recipients, in the age format: one file, one stanza a recipient.

Sealing hides; it does not say who sealed. What is inside is trusted only when a signed message carries its
SHA-256, which is why nothing here is parsed.
"""

from collections.abc import Sequence

import pyrage

from fedllm.errors import IdentityError, RefusedError
from fedllm.secure.identity import Identity


def seal(data: bytes, recipients: Sequence[str]) -> bytes:
    """Encrypt `data` so that each of `recipients` (age X25519, `age1…`) alone can open it.

    Sealing the same bytes twice gives different files: age draws a new file key each time.

    Raises:
        IdentityError: There is no recipient, or one is no age key.
    """
    if not recipients:
        raise IdentityError("nothing is sealed for nobody: name at least one recipient")
    keys = []
    for recipient in sorted(set(recipients)):
        try:
            keys.append(pyrage.x25519.Recipient.from_str(recipient))
        except pyrage.RecipientError:
            raise IdentityError(f"{recipient!r} is no age recipient: ask its owner for the card") from None
    sealed: bytes = pyrage.encrypt(data, keys)
    return sealed


def unseal(data: bytes, identity: Identity) -> bytes:
    """Decrypt what was sealed for `identity`.

    Raises:
        RefusedError: It was sealed for others, or changed on its way.
    """
    try:
        opened: bytes = pyrage.decrypt(data, [identity.opening])
    except pyrage.DecryptError:
        raise RefusedError(f"not sealed for {identity.name}, or damaged") from None
    return opened

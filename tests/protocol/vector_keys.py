"""The parties of the test vectors. Their keys are known to everybody: they serve these vectors alone."""

import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.protocol import independent as ind
from tests.protocol import independent_age as age

NOTE = "Test vectors of docs/protocol.md. TEST KEYS, known to everybody: never use them for anything else."


def drawn(label: str, size: int = 32) -> bytes:
    """Fixed bytes in place of random ones."""
    return hashlib.shake_256(b"fedllm test vector\x00" + label.encode()).digest(size)


def identity(name: str) -> dict[str, str]:
    """A party of the vectors, private keys and all."""
    seed, secret = drawn(f"sign {name}"), drawn(f"age {name}")
    verify = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw().hex()
    recipient = age.bech32("age", age.public(secret))
    return {
        "name": name,
        "ed25519_seed": seed.hex(),
        "age_identity": age.bech32("age-secret-key-", secret).upper(),
        "verify": verify,
        "recipient": recipient,
        "keyid": ind.keyid(verify),
        "fingerprint": ind.fingerprint(name, verify, recipient),
    }


PARTIES = {name: identity(name) for name in ("coordinator", "amazon", "movies")}


def signed(payload: bytes, name: str = "amazon", payload_type: str = ind.PAYLOAD_TYPE) -> bytes:
    """An honest signature over whatever bytes."""
    return ind.sign_envelope(payload, bytes.fromhex(PARTIES[name]["ed25519_seed"]), payload_type)

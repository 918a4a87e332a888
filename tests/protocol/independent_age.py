"""Files of age-encryption.org/v1 for X25519 recipients, written from c2sp.org/age: no age library is used."""

import base64
import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

CHUNK = 64 * 1024  # bytes of plaintext
TAG = 16  # bytes
_VERSION = b"age-encryption.org/v1\n"
_LETTERS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"  # BIP 173


class AgeError(ValueError):
    """A file, or a key, that is not as the specification says."""


def public(secret: bytes) -> bytes:
    """The X25519 public key of a secret one, 32 bytes."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def decrypt(data: bytes, secret: bytes) -> bytes:
    """Open a file for the identity whose 32 secret bytes are given."""
    stanzas, covered, mac, rest = _header(data)
    key = _file_key(stanzas, secret)
    if not hmac.compare_digest(mac, _mac(key, covered)):
        raise AgeError("the header's MAC is wrong")
    if len(rest) < 16:
        raise AgeError("cut in the nonce")
    cipher = ChaCha20Poly1305(_hkdf(key, rest[:16], b"payload"))
    body = rest[16:]
    opened = bytearray()
    pieces = [body[i : i + CHUNK + TAG] for i in range(0, len(body), CHUNK + TAG)]
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        try:
            plain = cipher.decrypt(number.to_bytes(11, "big") + bytes([last]), piece, None)
        except InvalidTag:
            raise AgeError(f"chunk {number} was changed, or the file was cut") from None
        if not plain and number > 0:
            raise AgeError("the last chunk is empty")
        opened += plain
    if not pieces:
        raise AgeError("there is no chunk")
    return bytes(opened)


def encrypt(
    data: bytes, recipients: list[bytes], file_key: bytes, shares: list[bytes], nonce: bytes
) -> bytes:
    """Write a file whose randomness is given: for test vectors, and for nothing else."""
    lines = [_VERSION.rstrip(b"\n")]
    for recipient, share in zip(recipients, shares, strict=True):
        shared = X25519PrivateKey.from_private_bytes(share).exchange(
            X25519PublicKey.from_public_bytes(recipient)
        )
        wrap = _hkdf(shared, public(share) + recipient, b"age-encryption.org/v1/X25519")
        body = ChaCha20Poly1305(wrap).encrypt(bytes(12), file_key, None)
        lines += [b"-> X25519 " + _b64(public(share)), _b64(body)]
    covered = b"\n".join(lines) + b"\n---"
    written = bytearray(covered + b" " + _b64(_mac(file_key, covered)) + b"\n" + nonce)
    cipher = ChaCha20Poly1305(_hkdf(file_key, nonce, b"payload"))
    pieces = [data[i : i + CHUNK] for i in range(0, len(data), CHUNK)] or [b""]
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        written += cipher.encrypt(number.to_bytes(11, "big") + bytes([last]), piece, None)
    return bytes(written)


def _header(data: bytes) -> tuple[list[tuple[list[bytes], bytes]], bytes, bytes, bytes]:
    """Stanzas (arguments and body), the bytes that the MAC covers, the MAC, and what follows."""
    if not data.startswith(_VERSION):
        raise AgeError("no age file of version 1")
    at, stanzas = len(_VERSION), []
    while data[at : at + 3] == b"-> ":
        line, at = _line(data, at)
        arguments, body = line[3:].split(b" "), b""
        while True:
            line, at = _line(data, at)
            body += line
            if len(line) < 64:
                break
        stanzas.append((arguments, _unb64(body)))
    line, end = _line(data, at)
    if not line.startswith(b"--- ") or not stanzas:
        raise AgeError("the header does not end as it should")
    return stanzas, data[: at + 3], _unb64(line[4:]), data[end:]


def _line(data: bytes, at: int) -> tuple[bytes, int]:
    end = data.find(b"\n", at)
    if end < 0:
        raise AgeError("the header is cut")
    return data[at:end], end + 1


def _file_key(stanzas: list[tuple[list[bytes], bytes]], secret: bytes) -> bytes:
    for arguments, body in stanzas:
        if arguments[0] != b"X25519":
            continue  # of another kind, or put there so that readers learn to pass it over
        if len(arguments) != 2 or len(body) != 16 + TAG:
            raise AgeError("an X25519 stanza that is none")
        share = _unb64(arguments[1])
        try:
            shared = X25519PrivateKey.from_private_bytes(secret).exchange(
                X25519PublicKey.from_public_bytes(share)
            )
        except ValueError:  # a share of another length, or of low order
            raise AgeError("an X25519 stanza with a share that is none") from None
        wrap = _hkdf(shared, share + public(secret), b"age-encryption.org/v1/X25519")
        try:
            return ChaCha20Poly1305(wrap).decrypt(bytes(12), body, None)
        except InvalidTag:
            continue  # for somebody else
    raise AgeError("not for this identity")


def _mac(file_key: bytes, covered: bytes) -> bytes:
    return hmac.new(_hkdf(file_key, b"", b"header"), covered, hashlib.sha256).digest()


def _hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(key)


def _b64(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def _unb64(text: bytes) -> bytes:
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise AgeError("not base64") from None
    if _b64(data) != text:
        raise AgeError("not canonical base64")
    return data


def bech32(prefix: str, data: bytes) -> str:
    """Encode 32 bytes as `age1…` (prefix `age`) or `age-secret-key-1…`."""
    bits = int.from_bytes(data, "big") << (-8 * len(data) % 5)
    count = -(-8 * len(data) // 5)
    words = [bits >> 5 * (count - 1 - i) & 31 for i in range(count)]
    check = _polymod(_spread(prefix) + words + [0] * 6) ^ 1
    words += [check >> 5 * (5 - i) & 31 for i in range(6)]
    return prefix + "1" + "".join(_LETTERS[word] for word in words)


def unbech32(text: str, prefix: str) -> bytes:
    """Decode what `bech32` wrote, in small or in capital letters."""
    if text not in {text.lower(), text.upper()}:
        raise AgeError("capital and small letters in one key")
    text = text.lower()
    if not text.startswith(prefix + "1") or set(text[len(prefix) + 1 :]) - set(_LETTERS):
        raise AgeError(f"no key that begins with {prefix}1")
    words = [_LETTERS.index(letter) for letter in text[len(prefix) + 1 :]]
    if _polymod(_spread(prefix) + words) != 1:
        raise AgeError("the key's checksum is wrong")
    bits, count = 0, len(words) - 6
    for word in words[:-6]:
        bits = bits << 5 | word
    spare = 5 * count % 8
    if bits & ((1 << spare) - 1):
        raise AgeError("the key's padding is not zero")
    return (bits >> spare).to_bytes(5 * count // 8, "big")


def _spread(prefix: str) -> list[int]:
    return [ord(letter) >> 5 for letter in prefix] + [0] + [ord(letter) & 31 for letter in prefix]


def _polymod(words: list[int]) -> int:
    check = 1
    for word in words:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ word
        for i, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= generator if top >> i & 1 else 0
    return check

"""A party's keys: Ed25519 to sign, X25519 (age) to decrypt. They stay on the machine that creates them."""

import base64
import hashlib
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyrage
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from pydantic import ValidationError

from fedllm.config.home import private_dir
from fedllm.errors import IdentityError
from fedllm.protocol.messages import EVERYONE, PublicKeys

SIGN_KEY = "sign.key"  # PKCS #8 in PEM
AGE_KEY = "age.key"  # one line, AGE-SECRET-KEY-1…
PUBLIC = "public.json"  # PublicKeys: whose keys these are

_OTHERS = 0o077  # permissions that group and others must not have


@dataclass(frozen=True, eq=False)
class Identity:
    """One party: its name and its private keys, which `repr` does not show."""

    name: str
    signing: Ed25519PrivateKey = field(repr=False)
    opening: Any = field(repr=False)  # pyrage.x25519.Identity

    @cached_property
    def public(self) -> PublicKeys:
        """The public keys."""
        verify = self.signing.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return PublicKeys(name=self.name, verify=verify.hex(), recipient=str(self.opening.to_public()))


def create_identity(folder: Path, name: str) -> Identity:
    """Generate the keys of `name` and store them in `folder` (mode 700), in files created with mode 600.

    Raises:
        IdentityError: The folder has keys, others can read it, or the name is invalid.
    """
    if name == EVERYONE:
        raise IdentityError(f"{name!r} is how messages address all parties: choose another name")
    identity = Identity(name, Ed25519PrivateKey.generate(), pyrage.x25519.Identity.generate())
    try:
        public = identity.public
    except ValidationError:
        raise IdentityError(f"{name!r} cannot be a name: use a-z, 0-9 and -, at most 63") from None
    pem = identity.signing.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    files = {
        SIGN_KEY: pem,
        AGE_KEY: f"{identity.opening}\n".encode(),
        PUBLIC: public.model_dump_json(indent=2).encode() + b"\n",
    }
    try:
        private_dir(folder)
        _refuse_wide(folder, folder.stat().st_mode, "700")
        _write_all(folder, files)
    except OSError as error:
        raise IdentityError(f"cannot keep keys in {folder}: {error.strerror}") from None
    return identity


def load_identity(folder: Path) -> Identity:
    """Load the keys that `create_identity` stored.

    Raises:
        IdentityError: A file is missing, unreadable, readable by others, or belongs to other keys.
    """
    _refuse_wide(folder, _stat(folder).st_mode, "700")
    try:
        signing = load_pem_private_key(read_private(folder / SIGN_KEY), password=None)
        opening = pyrage.x25519.Identity.from_str(read_private(folder / AGE_KEY).decode("ascii").strip())
        public = PublicKeys.model_validate_json(read_private(folder / PUBLIC))
    except (ValueError, TypeError, pyrage.IdentityError):  # never quote the cause: it may hold the key
        raise IdentityError(f"{folder} holds damaged keys: restore its files from your backup") from None
    if not isinstance(signing, Ed25519PrivateKey):
        raise IdentityError(f"{folder / SIGN_KEY} is no Ed25519 key: restore it from your backup")
    identity = Identity(public.name, signing, opening)
    if identity.public != public:
        raise IdentityError(f"{folder / PUBLIC} belongs to other keys: restore the folder from your backup")
    return identity


def retire_identity(folder: Path) -> None:
    """Rename the folder of keys, so that `create_identity` can create new ones in its place."""
    folder.rename(folder.with_name(f"{folder.name}-until-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"))


def fingerprint(keys: PublicKeys) -> str:
    """Return a fingerprint to compare out of band: 160 bits over name and keys, in eight groups of four."""
    text = f"fedllm.keys/1\n{keys.name}\n{keys.verify}\n{keys.recipient}\n"
    digest = hashlib.sha256(text.encode()).digest()[:20]
    letters = base64.b32encode(digest).decode().lower()
    return "-".join(letters[i : i + 4] for i in range(0, len(letters), 4))


def read_private(path: Path) -> bytes:
    """Read a file that only its owner may read.

    Raises:
        IdentityError: The file is missing, or others can read it.
    """
    try:
        with path.open("rb") as file:
            _refuse_wide(path, os.fstat(file.fileno()).st_mode, "600")
            return file.read()
    except OSError as error:
        raise IdentityError(f"cannot read {path}: {error.strerror}") from None


def write_private(path: Path, data: bytes) -> None:
    """Write a new file, which has mode 600 from its creation.

    Raises:
        FileExistsError: The file exists.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _write_all(folder: Path, files: dict[str, bytes]) -> None:
    """Write all files or none."""
    written: list[Path] = []
    try:
        for name, data in files.items():
            write_private(folder / name, data)
            written.append(folder / name)
    except FileExistsError as error:
        _remove(written)
        raise IdentityError(f"{error.filename} is there already: keys are never overwritten") from None
    except BaseException:
        _remove(written)
        raise


def _remove(paths: list[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise IdentityError(f"cannot read {path}: {error.strerror}") from None


def _refuse_wide(path: Path, mode: int, right: str) -> None:
    if os.name == "posix" and mode & _OTHERS:
        raise IdentityError(f"{path} is open to others: chmod {right} {path}")

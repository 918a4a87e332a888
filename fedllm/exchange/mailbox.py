"""Exchange signed messages and sealed payloads through a store, on behalf of one party."""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypedDict, TypeVar, Unpack

from fedllm.disk import replacing
from fedllm.errors import AccessDeniedError, ObjectNotFoundError, RefusedError
from fedllm.exchange.store import ObjectStore
from fedllm.protocol.layout import Layout
from fedllm.protocol.messages import Message, PublicKeys, Sealed
from fedllm.secure.envelope import open_envelope
from fedllm.secure.identity import Identity
from fedllm.secure.sealing import seal, unseal

M = TypeVar("M", bound=Message)

LARGEST_PAYLOAD = 2 * 1024**3  # bytes; the limit if the caller has no smaller one


class Expected(TypedDict, total=False):
    """The fields that a message must match besides its parties; an omitted field may have any value."""

    run: str | None
    number: int | None
    roster_version: int | None


def expected_of(plan: Message) -> Expected:
    """Return the fields that every message about a plan must match."""
    return {"run": plan.run, "number": plan.round, "roster_version": plan.roster_version}


@dataclass(frozen=True)
class Received(Generic[M]):
    """A message whose signature, sender and place have been checked."""

    message: M
    sha256: str  # of the envelope, hex
    envelope: bytes


@dataclass(frozen=True)
class Mailbox:
    """One party's access to the exchange of one federation."""

    store: ObjectStore
    layout: Layout
    me: Identity

    def read(self, key: str, kind: type[M], keys: PublicKeys, **place: Unpack[Expected]) -> Received[M]:
        """Fetch and check a message. Raises `ObjectNotFoundError`, or `RefusedError` with the reason."""
        return self.open(self.store.get(key, limit=kind.largest), kind, keys, **place)

    def find(
        self, key: str, kind: type[M], keys: PublicKeys, **place: Unpack[Expected]
    ) -> Received[M] | None:
        """Fetch and check a message as `read`; return None if the key does not exist."""
        try:
            return self.read(key, kind, keys, **place)
        except ObjectNotFoundError:
            return None

    def open(
        self, envelope: bytes, kind: type[M], keys: PublicKeys, **place: Unpack[Expected]
    ) -> Received[M]:
        """Check a message's bytes: it must come from the owner of `keys` and match `place`."""
        message = open_envelope(
            envelope,
            kind,
            keys,
            federation=self.layout.federation,
            sender=keys.name,
            receiver=self.me.public.name,
            run=place.get("run"),
            round=place.get("number"),
            roster_version=place.get("roster_version"),
        )
        return Received(message, hashlib.sha256(envelope).hexdigest(), envelope)

    def has(self, key: str) -> bool:
        """Return whether a readable key exists; without list rights S3 denies access to a missing one."""
        try:
            self.store.stat(key)
        except (ObjectNotFoundError, AccessDeniedError):
            return False
        return True

    def send_payload(self, path: Path, sealed: Sealed) -> None:
        """Upload the file that `seal_to_file` wrote."""
        self.store.put_file(sealed.key, path)

    def fetch_payload(
        self, sealed: Sealed, *, limit: int = LARGEST_PAYLOAD, opener: Identity | None = None
    ) -> bytes:
        """Download, check and decrypt a payload; both hashes are checked before anything is parsed.

        Args:
            sealed: the payload's description in a signed message.
            limit: largest size of the sealed object, bytes.
            opener: the identity that decrypts it; default: ours.

        Raises:
            RefusedError: size or hash differs from the description, or the payload is not sealed for us.
        """
        if sealed.sealed_bytes > limit:
            raise RefusedError(f"payload of {sealed.sealed_bytes} bytes, at most {limit} are allowed")
        with tempfile.TemporaryDirectory(prefix="fedllm-") as folder:
            path = Path(folder) / "sealed"
            digest = self.store.get_file(sealed.key, path, limit=sealed.sealed_bytes)
            if digest != sealed.sealed_sha256:
                raise RefusedError("payload's bytes are not those that were signed")
            inside = unseal(path.read_bytes(), opener or self.me)
        if len(inside) != sealed.bytes or hashlib.sha256(inside).hexdigest() != sealed.sha256:
            raise RefusedError("the sealed content is not what was signed")
        return inside


def seal_to_file(data: bytes, recipients: Sequence[str], key: str, path: Path) -> Sealed:
    """Seal `data` for `recipients`, write the sealed bytes to `path`, and return the description of both.

    Sealing uses fresh randomness, so a payload is sealed once, and a retry sends the same file.
    """
    ciphertext = seal(data, recipients)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:  # mode 600
        file.write(ciphertext)
    return Sealed(
        key=key,
        sealed_sha256=hashlib.sha256(ciphertext).hexdigest(),
        sealed_bytes=len(ciphertext),
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
    )

"""Signed messages and sealed payloads over a store, as one party sees them."""

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

LARGEST_PAYLOAD = 2 * 1024**3  # bytes, where nothing narrower is known


class Place(TypedDict, total=False):
    """What a message must name beside its parties; what is left out may be any."""

    run: str | None
    number: int | None
    roster_version: int | None


def place_of(plan: Message) -> Place:
    """What every word about a plan must name."""
    return {"run": plan.run, "number": plan.round, "roster_version": plan.roster_version}


@dataclass(frozen=True)
class Received(Generic[M]):
    """A message whose signature, sender and place were checked."""

    message: M
    sha256: str  # of the envelope, hex
    envelope: bytes


@dataclass(frozen=True)
class Mailbox:
    """One party's way into the exchange of one federation."""

    store: ObjectStore
    layout: Layout
    me: Identity

    def read(self, key: str, kind: type[M], keys: PublicKeys, **place: Unpack[Place]) -> Received[M]:
        """Fetch and check a message. Raises `ObjectNotFoundError` or, with the reason, `RefusedError`."""
        return self.open(self.store.get(key, limit=kind.largest), kind, keys, **place)

    def find(self, key: str, kind: type[M], keys: PublicKeys, **place: Unpack[Place]) -> Received[M] | None:
        """As `read`, but None while there is nothing under the key."""
        try:
            return self.read(key, kind, keys, **place)
        except ObjectNotFoundError:
            return None

    def open(self, envelope: bytes, kind: type[M], keys: PublicKeys, **place: Unpack[Place]) -> Received[M]:
        """Check the bytes of a message that should come from the owner of `keys`, for this place."""
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
        """Whether something is under a key that we may read; S3 denies a missing one to who may not list."""
        try:
            self.store.stat(key)
        except (ObjectNotFoundError, AccessDeniedError):
            return False
        return True

    def send_payload(self, path: Path, sealed: Sealed) -> None:
        """Upload bytes that `seal_to_file` committed to disk."""
        self.store.put_file(sealed.key, path)

    def fetch_payload(
        self, sealed: Sealed, *, limit: int = LARGEST_PAYLOAD, opener: Identity | None = None
    ) -> bytes:
        """Download and open a payload; nothing is parsed before both hashes are right.

        Args:
            sealed: the signed description.
            limit: most bytes of the sealed object.
            opener: whose key opens it; ours unless said.

        Raises:
            RefusedError: size or hash is not what the signed message says, or it is not sealed for us.
        """
        if sealed.sealed_bytes > limit:
            raise RefusedError(f"payload of {sealed.sealed_bytes} bytes, allowed are {limit}")
        with tempfile.TemporaryDirectory(prefix="fedllm-") as folder:
            path = Path(folder) / "sealed"
            found = self.store.get_file(sealed.key, path, limit=sealed.sealed_bytes)
            if found != sealed.sealed_sha256:
                raise RefusedError("payload's bytes are not those that were signed")
            inside = unseal(path.read_bytes(), opener or self.me)
        if len(inside) != sealed.bytes or hashlib.sha256(inside).hexdigest() != sealed.sha256:
            raise RefusedError("what is sealed is not what was signed")
        return inside


def seal_to_file(data: bytes, recipients: Sequence[str], key: str, path: Path) -> Sealed:
    """Seal `data` for `recipients`, commit the sealed bytes to `path`, and describe both.

    Sealing draws fresh randomness: what was sealed once is kept and sent again, never sealed again.
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

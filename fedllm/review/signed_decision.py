"""Sign and verify decisions in DSSE envelopes (Ed25519): a key then vouches for the reviewer's name.

The payload type differs from that of the parties' messages, so neither signature passes for the other.
DSSE v1: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
"""

import json
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey  # type: ignore[attr-defined]  # re-exported bare

from fedllm.errors import ReviewError
from fedllm.protocol.messages import PublicKeys
from fedllm.review.decision import ENVELOPE, KEY, Decision
from fedllm.secure.identity import Identity, fingerprint

PAYLOAD_TYPE = "application/vnd.fedllm.decision+json"


def sign_decision(decision: Decision, identity: Identity) -> dict[str, str]:
    """Return the tags that hold a decision's envelope and the keys to verify it."""
    payload = json.dumps(
        decision.statement, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(identity.signing))
    text = json.dumps(envelope.to_dict(), sort_keys=True, separators=(",", ":"))
    return {ENVELOPE: text, KEY: identity.public.model_dump_json()}


def verify_decision(decision: Decision, tags: Mapping[str, str]) -> str:
    """Verify the envelope of a signed decision.

    Args:
        decision: about the version.
        tags: of the version.

    Returns:
        The fingerprint of the keys that signed it; people must know whose keys they are.

    Raises:
        ReviewError: The decision is not signed, the signature is invalid, or the envelope differs from the
            record.
    """
    place = f"the decision on version {decision.version} of {decision.federation}"
    if decision.signed is None:
        raise ReviewError(f"{place} is not signed: the name is asserted")
    try:
        keys = PublicKeys.model_validate_json(tags.get(KEY, ""))
        envelope = Envelope.from_dict(json.loads(tags.get(ENVELOPE, "")))
        verifier = SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(bytes.fromhex(keys.verify)))
        envelope.verify([verifier], 1)
        signed = json.loads(envelope.payload)
    except (ValidationError, VerificationError, ValueError, KeyError, TypeError, AttributeError):
        raise ReviewError(f"{place} has no valid signature") from None
    if envelope.payload_type != PAYLOAD_TYPE or signed != decision.statement:
        raise ReviewError(f"{place} is not what was signed: the record was changed")
    if fingerprint(keys) != decision.signed:
        raise ReviewError(f"{place} was signed by {fingerprint(keys)}, not by {decision.signed}")
    return decision.signed


def reviewer_label(decision: Decision, tags: Mapping[str, str]) -> str:
    """Return the reviewer's name for display, and who vouches for it; marks an invalid signature."""
    if decision.signed is None:
        return decision.who
    try:
        verify_decision(decision, tags)
    except ReviewError as error:
        return f"{decision.reviewer} (NOT signed: {error})"
    return decision.who

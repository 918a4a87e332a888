"""A decision in a DSSE envelope (Ed25519), so that the reviewer's name rests on a key.

The payload type is not that of the parties' messages: no signature of the one kind passes for the other.
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
    """The tags that hold a decision's envelope and the keys to verify it with."""
    payload = json.dumps(
        decision.statement, sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(identity.signing))
    text = json.dumps(envelope.to_dict(), sort_keys=True, separators=(",", ":"))
    return {ENVELOPE: text, KEY: identity.public.model_dump_json()}


def verify_decision(decision: Decision, tags: Mapping[str, str]) -> str:
    """Check the envelope of a signed decision again.

    Args:
        decision: of the version.
        tags: of the version.

    Returns:
        The fingerprint of the keys that signed it: whose they are is for people to know.

    Raises:
        ReviewError: it was not signed, or the envelope says something else than the record.
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
        raise ReviewError(f"{place} is signed by nobody: its envelope does not hold") from None
    if envelope.payload_type != PAYLOAD_TYPE or signed != decision.statement:
        raise ReviewError(f"{place} is not what was signed: the record was changed")
    if fingerprint(keys) != decision.signed:
        raise ReviewError(f"{place} was signed by {fingerprint(keys)}, not by {decision.signed}")
    return decision.signed


def vouched(decision: Decision, tags: Mapping[str, str]) -> str:
    """The reviewer as it may be shown: a signature that does not hold is said so."""
    if decision.signed is None:
        return decision.who
    try:
        verify_decision(decision, tags)
    except ReviewError as error:
        return f"{decision.reviewer} (NOT signed: {error})"
    return decision.who

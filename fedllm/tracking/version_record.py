"""The signed record of a registered version: the SHA-256 of each of its files.

The coordinator signs it with its Ed25519 key (DSSE, `fedllm.secure.envelope`) and stores it as a tag of the
version. MLflow's server and artifact store only keep bytes: the record defines the version.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedllm.config.frozen import Name
from fedllm.errors import RefusedError, UntrustedVersionError
from fedllm.protocol.messages import COORDINATOR, Count, PublicKeys, RunId, Sha256
from fedllm.secure.envelope import sign_payload, verified_payload
from fedllm.secure.identity import Identity, fingerprint

RECORD = "record.signed"  # tag of a version: JSON, `SignedRecord`
PAYLOAD_TYPE = "application/vnd.fedllm.version+json"


class VersionRecord(BaseModel):
    """The coordinator's statement about one version: its origin and all its files."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    schema_: Literal["fedllm.version/1"] = Field(default="fedllm.version/1", alias="schema")
    federation: Name  # also the registered model's name
    version: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,9}$")]  # its number in the registry
    run: RunId
    round: Count
    model_sha256: Sha256  # of the flat adapter
    files: Mapping[Annotated[str, Field(max_length=200)], Sha256]  # path in the model's folder → SHA-256

    @property
    def tags(self) -> dict[str, str]:
        """The version's tags that must agree with the record."""
        return {"fed.run": self.run, "fed.round": str(self.round), "model.sha256": self.model_sha256}


class SignedRecord(BaseModel):
    """The tag: the record's envelope, and the keys that verify it if their fingerprint equals the pin."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    envelope: Annotated[str, Field(max_length=20_000)]  # JSON, DSSE
    keys: PublicKeys


def sign_record(record: VersionRecord, identity: Identity) -> str:
    """Return the value of the tag `record.signed`."""
    payload = record.model_dump_json(by_alias=True).encode()
    envelope = sign_payload(payload, PAYLOAD_TYPE, identity).decode()
    return SignedRecord(envelope=envelope, keys=identity.public).model_dump_json()


def open_record(name: str, version: str, tags: Mapping[str, str], pin: str | None) -> VersionRecord:
    """Verify and return the record of a version.

    Args:
        name: of the registered model.
        version: its number.
        tags: as MLflow returns them; not trusted.
        pin: fingerprint of the trusted coordinator; None if unknown.

    Raises:
        UntrustedVersionError: there is no pin or no record, another key signed it, it belongs to another
            version, or the version's tags contradict it.
    """
    uri = f"models:/{name}/{version}"
    if pin is None:
        raise UntrustedVersionError(
            f"{uri}: the coordinator's fingerprint is not known here: ask its owner and give it with --pin"
        )
    if RECORD not in tags:
        raise UntrustedVersionError(
            f"{uri} has no signed record: either it was registered before versions were signed (at the "
            "coordinator `fedllm model sign` signs it from the journal), or somebody removed the record"
        )
    record = _verified(uri, tags[RECORD], pin)
    if (record.federation, record.version) != (name, version):
        other = f"models:/{record.federation}/{record.version}"
        raise UntrustedVersionError(f"{uri}: its record belongs to {other}: versions were swapped")
    for tag, value in record.tags.items():
        if tags.get(tag) != value:
            raise UntrustedVersionError(f"{uri}: its tag {tag} is not what the coordinator signed")
    return record


def _verified(uri: str, tag: str, pin: str) -> VersionRecord:
    """Return the record that the pinned coordinator signed; parse it only after verifying the signature."""
    try:
        signed = SignedRecord.model_validate_json(tag)
    except ValidationError:
        raise UntrustedVersionError(f"{uri}: its signed record cannot be read") from None
    if (signer := fingerprint(signed.keys)) != pin or signed.keys.name != COORDINATOR:
        raise UntrustedVersionError(f"{uri}: its record is signed by {signer}, not by the coordinator {pin}")
    try:
        payload = verified_payload(signed.envelope.encode(), PAYLOAD_TYPE, signed.keys)
        return VersionRecord.model_validate_json(payload, by_alias=True, by_name=False)
    except RefusedError as error:
        raise UntrustedVersionError(f"{uri}: its record is not valid: {error}") from None
    except ValidationError:
        raise UntrustedVersionError(f"{uri}: its record has a format that this fedllm cannot read") from None

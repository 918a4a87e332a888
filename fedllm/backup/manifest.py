"""The archive's list of contents: every member with its hash, and the counters that only rise."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedllm.config.frozen import Name

MANIFEST = "manifest.json"  # the archive's last member
LARGEST_MANIFEST = 1 << 30  # bytes; it is read whole
HOME, DATABASES, OBJECTS = "home/", "postgres/", "objects/"  # prefixes of the other members' names


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Member(_Frozen):
    """One file of the archive."""

    name: str
    size: int = Field(ge=0)  # bytes
    sha256: str
    mode: int = 0o600


class Bucket(_Frozen):
    """A bucket, or a federation's part of one, whose objects are in the archive."""

    folder: str  # its members' names begin with objects/FOLDER/
    url: str  # s3://name, or file:///folder
    endpoint: str | None = None  # None: the local stack's own MinIO, or a folder
    region: str = "us-east-1"
    prefix: str = ""  # of the keys that are backed up; empty: the whole bucket
    own: bool = False  # whether the local stack owns it

    @model_validator(mode="after")
    def _is_confined(self) -> Self:
        if not self.own and not self.prefix.endswith("/"):
            raise ValueError(f"{self.url} is a shared store: give the prefix of the federation's part")
        return self


class StoredObject(_Frozen):
    """An object's metadata in S3."""

    member: str
    folder: str
    key: str
    content_type: str = "application/octet-stream"
    metadata: dict[str, str] = {}


class FederationMark(_Frozen):
    """A federation's counters at the backup; a restore continues well above them."""

    roster_version: int
    head_counter: int
    epoch: int
    unfinished: tuple[str, ...] = ()  # runs that --resume can continue


class LedgerMark(_Frozen):
    """The newest entry of a privacy ledger's chain."""

    home: str  # the ledger's folder below fedllm's home
    dataset: str
    seq: int
    sha256: str


class Manifest(_Frozen):
    """The archive's list of contents."""

    schema_: Literal["fedllm.backup/1"] = "fedllm.backup/1"
    fedllm: str  # version that wrote it
    taken: float  # s since 1970, when the first member was read
    home: str  # path of fedllm's home
    keys: bool  # whether private keys and passwords are included
    federations: dict[Name, FederationMark]
    ledgers: tuple[LedgerMark, ...]
    databases: tuple[Literal["journal", "mlflow", "prefect"], ...]  # those stored as Postgres dumps
    buckets: tuple[Bucket, ...]
    objects: tuple[StoredObject, ...]
    members: tuple[Member, ...]
    lost: tuple[str, ...] = ()  # keys of updates that open rounds need and that no longer existed

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Refuse members that the other fields do not account for, so that a restore writes nothing else."""
        prefixes = {bucket.folder: bucket.prefix for bucket in self.buckets}
        for entry in self.objects:
            if not entry.key.startswith(prefixes.get(entry.folder, "\0")):
                raise ValueError(f"{entry.key} belongs to none of its stores")
        expected = {f"{DATABASES}{name}.dump" for name in self.databases}
        expected |= {entry.member for entry in self.objects}
        actual = {member.name for member in self.members if not member.name.startswith(HOME)}
        if odd := sorted(actual ^ expected):
            raise ValueError(f"{odd[0]} is not accounted for")
        return self

    @property
    def size(self) -> int:
        """Total bytes of all members."""
        return sum(member.size for member in self.members)

    @property
    def room(self) -> int:
        """Bytes that a restore needs on the home's disk: files, the local stack's objects, one temporary."""
        own = {bucket.folder for bucket in self.buckets if bucket.own}
        kept = {entry.member for entry in self.objects if entry.folder in own}
        here = [m.size for m in self.members if m.name.startswith(HOME) or m.name in kept]
        return sum(here) + max((member.size for member in self.members), default=0)

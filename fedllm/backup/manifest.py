"""What an archive says of itself: every member with its hash, and the numbers that only ever rise."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedllm.config.frozen import Name

MANIFEST = "manifest.json"  # the archive's last member
LARGEST_MANIFEST = 1 << 30  # bytes; it is read whole
HOME, DATABASES, OBJECTS = "home/", "postgres/", "objects/"  # how the others' names begin


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Member(_Said):
    """One file of the archive."""

    name: str
    size: int = Field(ge=0)  # bytes
    sha256: str
    mode: int = 0o600


class Bucket(_Said):
    """A bucket, or a federation's part of one, whose objects are in the archive."""

    folder: str  # its members' names begin with objects/FOLDER/
    url: str  # s3://name, or file:///folder
    endpoint: str | None = None  # None: the local stack's own MinIO, or a folder
    region: str = "us-east-1"
    prefix: str = ""  # what was asked for; empty: all of the bucket
    own: bool = False  # of the local stack

    @model_validator(mode="after")
    def _is_confined(self) -> Self:
        if not self.own and not self.prefix.endswith("/"):
            raise ValueError(f"{self.url} is of a store that others use too: name the part of it")
        return self


class StoredObject(_Said):
    """What S3 knows of an object beside its bytes."""

    member: str
    folder: str
    key: str
    content_type: str = "application/octet-stream"
    metadata: dict[str, str] = {}


class FederationMark(_Said):
    """How far a federation was: a restore goes on well above these."""

    roster_version: int
    head_counter: int
    epoch: int
    unfinished: tuple[str, ...] = ()  # runs that --resume can go on with


class LedgerMark(_Said):
    """The newest entry of a privacy ledger's chain."""

    home: str  # of the site, below fedllm's home
    dataset: str
    seq: int
    sha256: str


class Manifest(_Said):
    """The archive's list of contents."""

    schema_: Literal["fedllm.backup/1"] = "fedllm.backup/1"
    fedllm: str  # version that wrote it
    taken: float  # s since 1970, when the first member was read
    home: str  # where it was
    keys: bool  # whether private keys and passwords are inside
    federations: dict[Name, FederationMark]
    ledgers: tuple[LedgerMark, ...]
    databases: tuple[Literal["journal", "mlflow", "prefect"], ...]  # those that are dumps of Postgres
    buckets: tuple[Bucket, ...]
    objects: tuple[StoredObject, ...]
    members: tuple[Member, ...]
    lost: tuple[str, ...] = ()  # keys of updates that open rounds need, and that were nowhere

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Nothing is written anywhere that the rest of the list does not account for."""
        prefixes = {bucket.folder: bucket.prefix for bucket in self.buckets}
        for entry in self.objects:
            if not entry.key.startswith(prefixes.get(entry.folder, "\0")):
                raise ValueError(f"{entry.key} is of none of its stores")
        expected = {f"{DATABASES}{name}.dump" for name in self.databases}
        expected |= {entry.member for entry in self.objects}
        found = {member.name for member in self.members if not member.name.startswith(HOME)}
        if odd := sorted(found ^ expected):
            raise ValueError(f"{odd[0]} is not accounted for")
        return self

    @property
    def size(self) -> int:
        """Bytes of all members."""
        return sum(member.size for member in self.members)

    @property
    def room(self) -> int:
        """Bytes that a restore takes on the home's disk: files, its own stores' objects, one in passing."""
        own = {bucket.folder for bucket in self.buckets if bucket.own}
        kept = {entry.member for entry in self.objects if entry.folder in own}
        here = [m.size for m in self.members if m.name.startswith(HOME) or m.name in kept]
        return sum(here) + max((member.size for member in self.members), default=0)

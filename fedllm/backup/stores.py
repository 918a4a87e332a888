"""The stores whose objects belong to a backup, entered with their administrators' keys."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from fedllm.backup.manifest import Bucket
from fedllm.backup.objects import Shelf, enter, enter_folder
from fedllm.config import FederationConfig
from fedllm.errors import BackupError, ConfigError
from fedllm.secure.trust import read_ca
from fedllm.stack import endpoints
from fedllm.stack.addresses import BUCKET
from fedllm.stack.minio import MinioServer
from fedllm.stack.place import Place
from fedllm.stack.programs import root_credentials

_OWN = (BUCKET, "mlflow")  # of the local stack


def own_buckets() -> list[Bucket]:
    """The local stack's own."""
    return [Bucket(folder=name, url=f"s3://{name}", own=True) for name in _OWN]


def buckets_of(configs: Iterable[FederationConfig]) -> list[Bucket]:
    """Stores of one's own that federations use: of each, the federation's part."""
    return [
        Bucket(
            folder=f"of-{config.name}",
            url=config.store.url,
            endpoint=config.store.endpoint,
            region=config.store.region,
            prefix=f"{config.name}/",
        )
        for config in configs
        if config.store.url != "auto"
    ]


@contextmanager
def local_shelves(buckets: Iterable[Bucket], *, make: bool = False) -> Iterator[list[Shelf]]:
    """The local stack's buckets; a MinIO is started for the time of the block where the stack is down.

    Args:
        buckets: which.
        make: make those that are not there, and the whole volume if need be; else they are left out.
    """
    place = Place.here()
    with ExitStack() as stack:
        here = endpoints()
        if here is not None:
            access, secret, endpoint, ca = (
                here.minio_access_key,
                here.minio_secret_key,
                here.minio_url,
                here.ca,
            )
        elif make or (place.minio / "meta.db").exists():
            stack.enter_context(place.lock())
            server = stack.enter_context(MinioServer(place.minio))
            (access, secret), endpoint, ca = root_credentials(place), server.endpoint, None
        else:
            yield []
            return
        shelves = [enter(bucket, access, secret, endpoint, ca) for bucket in buckets]
        if make:
            for shelf in shelves:
                shelf.make()
        yield [shelf for shelf in shelves if shelf.exists()]


def foreign_shelf(bucket: Bucket, environment: Mapping[str, str] = os.environ) -> Shelf:
    """A store of one's own.

    Raises:
        ConfigError: its administrator's keys are not in the environment.
    """
    if bucket.url.startswith("file:"):
        return enter_folder(bucket)
    access, secret = environment.get("FEDLLM_ACCESS_KEY"), environment.get("FEDLLM_SECRET_KEY")
    if not (access and secret) or bucket.endpoint is None:
        raise ConfigError(f"{bucket.url} needs FEDLLM_ACCESS_KEY and FEDLLM_SECRET_KEY in the environment")
    ca_file = environment.get("FEDLLM_CA_FILE")
    return enter(bucket, access, secret, bucket.endpoint, read_ca(ca_file) if ca_file else None)


def refuse_filled(shelf: Shelf) -> None:
    """Raise `BackupError` when a store that a backup goes into holds objects there already."""
    if keys := shelf.keys():
        raise BackupError(
            f"{shelf.bucket.url} holds {keys[0]} already: empty it, or leave its objects as they are with "
            "--keep-objects"
        )

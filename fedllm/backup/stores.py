"""The stores whose objects belong to a backup, entered with their administrators' keys."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fedllm.backup.manifest import Bucket, Manifest
from fedllm.backup.objects import Shelf, enter, enter_folder
from fedllm.config import FederationConfig
from fedllm.endpoints import endpoints
from fedllm.endpoints.place import Place
from fedllm.endpoints.store_users import BUCKET, MLFLOW_BUCKET
from fedllm.errors import BackupError, ConfigError, ExchangeError
from fedllm.secure.trust import read_ca
from fedllm.stack.minio import MinioServer
from fedllm.stack.programs import root_credentials

_OWN = (BUCKET, MLFLOW_BUCKET)  # of the local stack


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
def local_shelves(
    buckets: Iterable[Bucket], *, make: bool = False, say: Callable[[str], None] = lambda _: None
) -> Iterator[list[Shelf]]:
    """The local stack's buckets; a MinIO is started for the time of the block where the stack is down.

    Args:
        buckets: which.
        make: make those that are not there, and the whole volume if need be, as a restore does, which holds
            the stack's lock; else they are left out.
        say: hears what is waited for, and what has to wait for this.
    """
    place = Place.here()
    with ExitStack() as stack:
        here = endpoints()
        alone = here is None and (make or (place.minio / "meta.db").exists())
        if alone and not make:
            # Who holds the lock may be an `up` that has just begun: two servers must not work on one volume.
            held = stack.enter_context(ExitStack())
            held.enter_context(place.lock(say))
            here = endpoints()
            if here is not None:
                held.close()
        if here is not None:
            endpoint, ca = here.minio_url, here.ca
        elif alone:
            say("the stack is down: a MinIO runs for this alone, and `fedllm up` waits until it is done")
            endpoint, ca = stack.enter_context(MinioServer(place.minio)).endpoint, None
        else:
            yield []
            return
        keys = root_credentials(place)  # of all buckets
        shelves = [enter(bucket, *keys, endpoint, ca) for bucket in buckets]
        if make:
            for shelf in shelves:
                shelf.make()
        yield [shelf for shelf in shelves if shelf.exists()]


def foreign_shelf(bucket: Bucket, environment: Mapping[str, str] = os.environ) -> Shelf:
    """A store of one's own.

    Raises:
        ConfigError: its administrator's keys are not in the environment.
    """
    if _is_folder(bucket):
        return enter_folder(bucket)
    access, secret = environment.get("FEDLLM_ACCESS_KEY"), environment.get("FEDLLM_SECRET_KEY")
    if not (access and secret) or bucket.endpoint is None:
        raise ConfigError(f"{bucket.url} needs FEDLLM_ACCESS_KEY and FEDLLM_SECRET_KEY in the environment")
    ca_file = environment.get("FEDLLM_CA_FILE")
    return enter(bucket, access, secret, bucket.endpoint, read_ca(ca_file) if ca_file else None)


def shelves_to_fill(manifest: Manifest, named: Collection[str]) -> dict[str, Shelf]:
    """Stores of one's own that an archive's objects go into, by their folders in the archive.

    Args:
        manifest: the archive's list of contents.
        named: folders (`file:///…`) that the operator lets be written to.

    Raises:
        ConfigError: a folder is not among them, or a store's keys are not in the environment.
    """
    buckets = [bucket for bucket in manifest.buckets if not bucket.own]
    for bucket in buckets:
        if _is_folder(bucket) and bucket.url not in named:
            raise ConfigError(
                f"the archive's objects go to {bucket.url}: allow that with --store {bucket.url}, or leave "
                "them as they are there with --keep-objects"
            )
    return {bucket.folder: foreign_shelf(bucket) for bucket in buckets}


def missing_objects(manifest: Manifest, say: Callable[[str], None]) -> tuple[str, ...]:
    """Keys that an archive holds, and stores of one's own do not: those that can be looked into.

    Updates of rounds that have ended since are rightly among them.
    """
    missing: list[str] = []
    for bucket in manifest.buckets:
        wanted = [entry.key for entry in manifest.objects if entry.folder == bucket.folder]
        if bucket.own:
            continue
        if _is_folder(bucket) and not Path(unquote(urlsplit(bucket.url).path)).is_dir():
            missing += wanted
            continue
        try:
            there = set(foreign_shelf(bucket).keys())
        except (ConfigError, ExchangeError) as error:
            say(f"whether {bucket.url} holds what the journal names was not looked at: {error}")
        else:
            missing += [key for key in wanted if key not in there]
    return tuple(missing)


def _is_folder(bucket: Bucket) -> bool:
    return bucket.url.startswith("file:")


def refuse_filled(shelf: Shelf) -> None:
    """Raise `BackupError` when a store that a backup goes into holds objects there already."""
    if keys := shelf.keys():
        raise BackupError(
            f"{shelf.bucket.url} holds {keys[0]} already: empty it, or, if it came through whole, leave its "
            "objects as they are with --keep-objects"
        )

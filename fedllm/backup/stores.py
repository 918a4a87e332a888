"""Open the stores whose objects belong to a backup, with their administrators' keys."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fedllm.backup.manifest import Bucket, Manifest
from fedllm.backup.objects import BackupStore, open_bucket, open_folder
from fedllm.config import FederationConfig
from fedllm.endpoints import endpoints
from fedllm.endpoints.stack_paths import StackPaths
from fedllm.endpoints.store_users import BUCKET, MLFLOW_BUCKET
from fedllm.errors import BackupError, ConfigError, ExchangeError
from fedllm.secure.trust import read_ca
from fedllm.stack.minio import MinioServer
from fedllm.stack.programs import root_credentials

_OWN = (BUCKET, MLFLOW_BUCKET)  # owned by the local stack


def own_buckets() -> list[Bucket]:
    """Return the local stack's buckets."""
    return [Bucket(folder=name, url=f"s3://{name}", own=True) for name in _OWN]


def buckets_of(configs: Iterable[FederationConfig]) -> list[Bucket]:
    """Return the federations' parts of external stores: those that the local stack does not own."""
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
def local_stores(
    buckets: Iterable[Bucket], *, make: bool = False, say: Callable[[str], None] = lambda _: None
) -> Iterator[list[BackupStore]]:
    """Open buckets of the local stack; if the stack is down, run a MinIO for the duration of the block.

    Args:
        buckets: the buckets to open.
        make: create missing buckets, and the volume if needed; the caller, a restore, then holds the stack's
            lock. Otherwise missing buckets are left out.
        say: called with a line for what this waits for, and what waits for this.
    """
    place = StackPaths.here()
    with ExitStack() as stack:
        running = endpoints()
        alone = running is None and (make or (place.minio / "meta.db").exists())
        if alone and not make:
            # The lock's holder may be a starting `up`: two servers must not work on one volume.
            lock = stack.enter_context(ExitStack())
            lock.enter_context(place.lock(say))
            running = endpoints()
            if running is not None:
                lock.close()
        if running is not None:
            endpoint, ca = running.minio_url, running.ca
        elif alone:
            say("the stack is down: a MinIO runs for this alone, and `fedllm up` waits until it is done")
            endpoint, ca = stack.enter_context(MinioServer(place.minio)).endpoint, None
        else:
            yield []
            return
        keys = root_credentials(place)  # valid for all buckets
        stores = [open_bucket(bucket, *keys, endpoint, ca) for bucket in buckets]
        if make:
            for store in stores:
                store.make()
        yield [store for store in stores if store.exists()]


def external_store(bucket: Bucket, environment: Mapping[str, str] = os.environ) -> BackupStore:
    """Open an external store.

    Raises:
        ConfigError: its administrator's keys are not in the environment.
    """
    if _is_folder(bucket):
        return open_folder(bucket)
    access, secret = environment.get("FEDLLM_ACCESS_KEY"), environment.get("FEDLLM_SECRET_KEY")
    if not (access and secret) or bucket.endpoint is None:
        raise ConfigError(f"{bucket.url} needs FEDLLM_ACCESS_KEY and FEDLLM_SECRET_KEY in the environment")
    ca_file = environment.get("FEDLLM_CA_FILE")
    return open_bucket(bucket, access, secret, bucket.endpoint, read_ca(ca_file) if ca_file else None)


def stores_to_fill(manifest: Manifest, allowed: Collection[str]) -> dict[str, BackupStore]:
    """Open the external stores that an archive's objects go into, by folder in the archive.

    Args:
        manifest: the archive's list of contents.
        allowed: folders (`file:///…`) that the operator permits to be written.

    Raises:
        ConfigError: a folder is not allowed, or a store's keys are not in the environment.
    """
    buckets = [bucket for bucket in manifest.buckets if not bucket.own]
    for bucket in buckets:
        if _is_folder(bucket) and bucket.url not in allowed:
            raise ConfigError(
                f"the archive's objects go to {bucket.url}: allow that with --store {bucket.url}, or leave "
                "them as they are there with --keep-objects"
            )
    return {bucket.folder: external_store(bucket) for bucket in buckets}


def missing_objects(manifest: Manifest, say: Callable[[str], None]) -> tuple[str, ...]:
    """Return the keys of the archive that external stores do not have, as far as the stores can be read.

    Updates of rounds that have ended since are expected among them.
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
            present = set(external_store(bucket).keys())
        except (ConfigError, ExchangeError) as error:
            say(f"{bucket.url} was not checked for the objects that the journal names: {error}")
        else:
            missing += [key for key in wanted if key not in present]
    return tuple(missing)


def _is_folder(bucket: Bucket) -> bool:
    return bucket.url.startswith("file:")


def refuse_non_empty(store: BackupStore) -> None:
    """Raise `BackupError` when a store to restore into has objects."""
    if keys := store.keys():
        raise BackupError(
            f"{store.bucket.url} holds {keys[0]} already: empty it, or, if it lost nothing, leave its "
            "objects as they are with --keep-objects"
        )

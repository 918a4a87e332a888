"""Open a store by its address."""

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from fedllm.errors import ConfigError

if TYPE_CHECKING:
    from fedllm.exchange.store import ObjectStore


def connect(  # noqa: PLR0913, PLR0917 - an address and the keys to it
    url: str,
    endpoint: str | None = None,
    region: str = "us-east-1",
    access_key: str | None = None,
    secret_key: str | None = None,
    ca: str | None = None,
) -> "ObjectStore":
    """Return the store at `s3://bucket` (with `endpoint` and keys) or `file:///folder`; nothing is sent yet.

    With `ca` (PEM) the endpoint's certificate must come from that authority; other connections of this
    process are not affected.

    Raises:
        ConfigError: The address is neither, or a part of it is missing.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3":
        return _bucket(url, endpoint, region, access_key, secret_key, ca)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path.startswith("/"):
        from fedllm.exchange.directory_store import DirectoryStore

        return DirectoryStore(Path(unquote(parts.path)))
    raise ConfigError(f"store.url {url!r}: use s3://bucket, or file:///folder with an absolute folder")


def _bucket(  # noqa: PLR0913, PLR0917 - an address and the keys to it
    url: str,
    endpoint: str | None,
    region: str,
    access_key: str | None,
    secret_key: str | None,
    ca: str | None,
) -> "ObjectStore":
    from minio.helpers import check_bucket_name

    from fedllm.exchange.minio_store import MinioStore

    bucket = url.removeprefix("s3://").rstrip("/")
    try:
        check_bucket_name(bucket, strict=True)
    except ValueError:
        raise ConfigError(f"store.url {url!r}: use s3://bucket, with only a bucket's name") from None
    if endpoint is None:
        raise ConfigError("store.endpoint is needed with an s3:// store, such as https://minio.example:9000")
    if access_key is None or secret_key is None:
        raise ConfigError(f"{url} needs an access key and a secret key: a site finds them in its invitation")
    return MinioStore(endpoint, bucket, region=region, access_key=access_key, secret_key=secret_key, ca=ca)

"""Stream a file as one signed PUT; the SDK would send it in parts or hold it in memory.

Parts need calls that no site may make (an unfinished upload takes space that nobody sees), so the sites' door
passes only single objects.
"""

import hashlib
from datetime import UTC, datetime
from io import BufferedReader
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET  # nosec B405  # as the SDK reads every answer

import urllib3
from minio.credentials.credentials import Credentials
from minio.error import S3Error, ServerError
from minio.signer import sign_v4_s3
from minio.time import to_amz_date

LARGEST = 5 << 30  # bytes; S3's limit of one PUT
_OK, _TOO_LARGE = 200, 413


def streamed_put(  # noqa: PLR0913 - what it takes to name, sign and send an object
    http: urllib3.PoolManager,
    url: str,
    data: BufferedReader,
    size: int,
    *,
    region: str,
    access_key: str,
    secret_key: str,
) -> tuple[str, str | None]:
    """Write an object from an open file, which is read twice, and return its etag and Date header.

    Args:
        http: the connection pool.
        url: `http[s]://host:port/bucket/key`, with a plain key (`key_rules`).
        data: the file, at its beginning.
        size: the file's size in bytes, at most `LARGEST`.
        region: the store's region.
        access_key: the writer's access key.
        secret_key: the writer's secret key.

    Raises:
        S3Error: the store refused.
        ServerError: the answer is not S3's.
        urllib3.exceptions.HTTPError: the store did not answer.
    """
    digest = hashlib.file_digest(data, "sha256").hexdigest()
    data.seek(0)
    parts, now = urlsplit(url), datetime.now(UTC)
    headers = sign_v4_s3(
        method="PUT",
        url=parts,
        region=region,
        headers={
            "Host": parts.netloc,
            "Content-Length": str(size),
            "Content-Type": "application/octet-stream",
            "x-amz-content-sha256": digest,
            "x-amz-date": to_amz_date(now),
        },
        credentials=Credentials(access_key, secret_key),
        content_sha256=digest,
        date=now,
    )
    answer = http.request("PUT", url, body=data, headers={k: str(v) for k, v in headers.items()})
    if answer.status == _OK:
        return answer.headers.get("ETag", ""), answer.headers.get("Date")
    if answer.status == _TOO_LARGE:
        raise ServerError(f"the store does not accept an object of {size} bytes", answer.status)
    try:
        raise S3Error.fromxml(answer)
    except ET.ParseError:
        raise ServerError(f"the store answered {answer.status}", answer.status) from None

"""Requests that no client of ours sends, thousands of them, by a site with its own keys."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from raw_s3 import Answer, Party

from tests.door.planted import BUCKET, HEAD, HIDDEN, ME, OTHER, SECRET, archive
from tests.tiers import by_tier

METHODS = (
    *("PUT", "GET", "HEAD", "POST", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", "COPY"),
    *("get", "MOVE"),
)
BUCKETS = (
    *(f"/{BUCKET}/", "/", "//", "/mlflow/", f"/{BUCKET}%2f"),
    *("/minio/admin/v3/", "/minio/"),
)
PREFIXES = (ME, OTHER, "fed/coordinator", "fed/inbox/beta", "fed2/coordinator", "", ".minio.sys/config")
LINKS = (
    *("/", "//", "/../", "/./", "/%2e%2e/", "/..%2f", "%2f", "\\", "%5c", "/%252e%252e/"),
    *("/%c0%ae%c0%ae/", ";/", "/..;/"),
)
MIDDLES = ("", "beta/", "../", f"{BUCKET}/")
ENDS = (
    *("card.json", "head.json", "*", "", "%00", "card.json%20", "card.json/", "card.json?"),
    *("x#y", "card%2ejson", "%c5%bf"),
)
QUERIES = (
    *("", "uploads", "uploadId=1&partNumber=1", "delete", "acl", "policy", "tagging"),
    *("list-type=2", "versions", "events=s3:ObjectCreated:*", "select&select-type=2", "retention", "=", "&"),
    *("Action=AssumeRole&Version=2011-06-15", "X-Amz-Algorithm=AWS4-HMAC-SHA256", "accessKey=fed.alpha"),
)
HEADERS = (
    *("", "x-amz-copy-source", "x-amz-acl", "x-amz-tagging", "X-HTTP-Method-Override"),
    *("X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Host", "x-amz-security-token", "x-amz-meta-x"),
    *("x-amz-bypass-governance-retention", "Content-Encoding", "Transfer-Encoding", "Expect", "Upgrade"),
    *("Range", "X-Accel-Redirect"),
)
VALUES = (f"/{BUCKET}/{OTHER}/card.json", f"/{BUCKET}/{ME}/../beta/card.json", "true", "DELETE", "chunked")
BODIES = (
    *(b"", b"forged", archive(HEAD)),
    b"<Delete><Object><Key>fed/sites/beta/card.json</Key></Object></Delete>",
)


def strange(chance: random.Random, me: Party) -> Answer:
    """Send one; every part of it is as it should be half of the time."""

    def take(parts: Sequence[Any]) -> Any:  # noqa: ANN401 - one of them
        return parts[0] if chance.random() < 0.5 else chance.choice(parts)

    path = "".join(map(take, (BUCKETS, PREFIXES, LINKS, MIDDLES, ENDS)))
    if chance.random() < 0.1:
        path = f"http://127.0.0.1{path}"
    headers: dict[str, Any] = {name: take(VALUES)} if (name := take(HEADERS)) else {}
    if chance.random() < 0.5:
        headers = {"unsigned": headers}
    return me.ask(take(METHODS), path, take(QUERIES), take(BODIES), **headers)


@by_tier(400, 5000)
@pytest.mark.slow("hundreds of requests, each on a connection of its own")
@pytest.mark.usefixtures("unharmed")
def test_no_request_reads_writes_lists_or_deletes_what_is_anothers(
    alpha: Party, part: int, count: int
) -> None:
    chance, alpha = random.Random(f"{part} {count}"), replace(alpha, patience=5.0)
    answered = passed = 0
    for _ in range(count):
        try:
            answer = strange(chance, alpha)
        except (OSError, ValueError):  # cut off; or what Python's own client will not send
            continue
        answered += 1
        passed += answer.status == 200
        assert SECRET not in answer.body
        assert HIDDEN.encode() not in answer.body
    assert answered > 0.9 * count
    assert passed > 0, "some are a site's right"

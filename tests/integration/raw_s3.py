"""S3 as an attacker speaks it: requests signed by hand, whose every byte is theirs to choose.

The SDK refuses some of these paths before a server sees them, and an attacker would not use the SDK.
"""

import base64
import datetime as dt
import hashlib
import hmac
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, quote, unquote_to_bytes
from xml.etree import ElementTree as ET

import urllib3
from minio.credentials.credentials import Credentials
from minio.crypto import encrypt
from minio.signer import sign_v4_s3
from minio.time import to_amz_date


@dataclass(frozen=True)
class Answer:
    status: int
    code: str
    body: bytes

    @property
    def denied(self) -> bool:
        return self.status == 403 and self.code == "AccessDenied"


@dataclass(frozen=True)
class Party:
    """Somebody with keys and no manners."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    bucket: str
    patience: float = 60.0  # s for an answer

    def ask(
        self,
        method: str,
        path: str,
        query: str = "",
        body: bytes = b"",
        *,
        unsigned: Mapping[str, str] | None = None,
        **headers: str,
    ) -> Answer:
        """Send `path` byte for byte, signed as the server will read it: a bad signature proves nothing.

        Headers are signed, but for the unsigned ones.
        """
        netloc = self.endpoint.removeprefix("http://")
        now = dt.datetime.now(dt.UTC)
        digest = hashlib.sha256(body).hexdigest()
        signed = sign_v4_s3(
            method=method,
            url=SplitResult("http", netloc, quote(unquote_to_bytes(path), safe="/-_.~"), query, ""),
            region="us-east-1",
            headers={
                "Host": netloc,
                "x-amz-content-sha256": digest,
                "x-amz-date": to_amz_date(now),
                **{name.replace("_", "-"): value for name, value in headers.items()},
            },
            credentials=Credentials(self.access_key, self.secret_key),
            content_sha256=digest,
            date=now,
        )
        # Unlike urllib3, it tidies no path.
        connection = http.client.HTTPConnection(netloc, timeout=self.patience)
        try:
            connection.request(
                method,
                path + (f"?{query}" if query else ""),
                body=body,
                headers={name: str(value) for name, value in signed.items()} | dict(unsigned or {}),
            )
            response = connection.getresponse()
            # What is listened to never ends.
            data = b"" if response.status == 200 and "events=" in query else response.read()
        finally:
            connection.close()
        return Answer(response.status, _code(data), data)

    def get(self, key: str) -> Answer:
        return self.ask("GET", f"/{self.bucket}/{key}")

    def put(self, key: str, data: bytes = b"forged") -> Answer:
        return self.ask("PUT", f"/{self.bucket}/{key}", body=data)

    def send_form(self, key: str, data: bytes = b"forged") -> Answer:
        """Send a browser's form, as S3 takes it for an upload."""
        now = dt.datetime.now(dt.UTC)
        day, time = now.strftime("%Y%m%d"), now.strftime("%Y%m%dT%H%M%SZ")
        told = {
            "x-amz-algorithm": "AWS4-HMAC-SHA256",
            "x-amz-credential": f"{self.access_key}/{day}/us-east-1/s3/aws4_request",
            "x-amz-date": time,
        }
        conditions = [
            {"bucket": self.bucket},
            ["starts-with", "$key", ""],
            *({k: v} for k, v in told.items()),
        ]
        until = (now + dt.timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        policy = base64.b64encode(json.dumps({"expiration": until, "conditions": conditions}).encode())
        secret = f"AWS4{self.secret_key}".encode()
        for part in (day, "us-east-1", "s3", "aws4_request"):
            secret = hmac.new(secret, part.encode(), "sha256").digest()
        signature = hmac.new(secret, policy, "sha256").hexdigest()
        fields = {"key": key, "policy": policy.decode(), **told, "x-amz-signature": signature}
        answer = urllib3.request(
            "POST",
            f"{self.endpoint}/{self.bucket}",
            fields={**fields, "file": ("file", data)},
            retries=False,
            timeout=60.0,
        )
        return Answer(answer.status, _code(answer.data), answer.data)

    def make_itself_root(self, name: str | None = None) -> Answer:
        """Ask the store for every right, for oneself or for a user of that name."""
        wish = {"secretKey": "x" * 40, "status": "enabled", "policyName": "consoleAdmin"}
        body = encrypt(json.dumps(wish).encode(), self.secret_key)
        return self.ask("PUT", "/minio/admin/v3/add-user", f"accessKey={name or self.access_key}", body)

    def delete(self, key: str) -> Answer:
        return self.ask("DELETE", f"/{self.bucket}/{key}")

    def list(self, prefix: str) -> Answer:
        return self.ask("GET", f"/{self.bucket}", f"list-type=2&prefix={quote(prefix, safe='')}")

    def listen(self, prefix: str) -> Answer:
        events = quote("s3:ObjectCreated:*", safe="")
        return self.ask("GET", f"/{self.bucket}", f"events={events}&prefix={quote(prefix, safe='')}&suffix=")


def _code(data: bytes) -> str:
    try:
        return ET.fromstring(data).findtext("Code") or ""  # noqa: S314 - our own server's answer
    except ET.ParseError:
        return ""

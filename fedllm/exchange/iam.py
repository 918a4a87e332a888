"""Users and policies of MinIO: one user a site, bound to literal prefixes of the bucket.

`*` in a policy's resource crosses slashes, so it stands at the very end alone, after a slash:
`…/sites/amazon/*` neither covers `…/sites/amazon-evil/` nor anything outside.
"""

import json
import re
import secrets
from collections.abc import Callable
from typing import Any

import urllib3
from minio import MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException, MinioException

from fedllm.config.frozen import NAME
from fedllm.errors import AccessDeniedError, ConfigError, ExchangeError
from fedllm.exchange.keys import Layout
from fedllm.exchange.messages import COORDINATOR, EVERYONE
from fedllm.exchange.minio_store import http_pool, minio_client
from fedllm.secure.trust import why_untrusted

_BUCKET = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"


def access_key(federation: str, site: str) -> str:
    """The name of a site's user. No name holds a dot, so no two sites share one.

    Raises:
        ConfigError: A name is none, or means another party.
    """
    for name in (federation, site):
        if re.fullmatch(NAME, name) is None:
            raise ConfigError(f"{name!r} cannot be a name: use a-z, 0-9 and -, at most 63")
    if site in {COORDINATOR, EVERYONE}:
        raise ConfigError(f"{site!r} means another party: choose another name for the site")
    return f"{federation}.{site}"


def site_policy(bucket: str, federation: str, site: str) -> dict[str, Any]:
    """What one site may do: read and write its own prefix, read the coordinator's and its own inbox.

    It may not delete, list, or listen (a listener sees other sites' keys). Uploads in parts need no more
    than PutObject, and AbortMultipartUpload to leave nothing behind when one fails.

    Raises:
        ConfigError: A name could be read as a pattern.
    """
    access_key(federation, site)
    if re.fullmatch(_BUCKET, bucket) is None:
        raise ConfigError(f"{bucket!r} is no bucket's name")
    layout = Layout(federation)
    own, inbox, shared = (
        f"arn:aws:s3:::{bucket}/{prefix}*"
        for prefix in (layout.site_prefix(site), layout.inbox_prefix(site), layout.coordinator_prefix)
    )
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["s3:PutObject", "s3:GetObject", "s3:AbortMultipartUpload"],
                "Resource": [own],
            },
            {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [shared, inbox]},
        ],
    }


class MinioIam:
    """The users of one bucket's sites. Needs MinIO's root keys, or a user who may administrate others.

    With `ca` (PEM), no other authority's certificate is believed.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what it takes to administrate a bucket's users
        self,
        endpoint: str,
        access_key: str,
        secret_key: str,
        bucket: str,
        region: str = "us-east-1",
        ca: str | None = None,
    ) -> None:
        pool = http_pool(endpoint, ca)
        minio_client(endpoint, region, access_key, secret_key, pool)  # checks the endpoint
        self.bucket = bucket
        self._endpoint = endpoint.rstrip("/")
        self._admin = MinioAdmin(
            endpoint=self._endpoint.partition("://")[2],
            credentials=StaticProvider(access_key, secret_key),
            region=region,
            secure=self._endpoint.startswith("https://"),
            http_client=pool,
        )

    def __repr__(self) -> str:
        return f"MinioIam({self._endpoint!r}, {self.bucket!r})"

    def add_site(self, federation: str, site: str) -> tuple[str, str]:
        """Make the site's user and policy; return its access key and a new secret key.

        MinIO cannot say a secret again. Called once more for the same site, this rotates the secret: what
        was handed out before ceases to work, and the site needs the new one.

        Raises:
            ConfigError: A name is none.
            AccessDeniedError: These keys may not administrate users.
            ExchangeError: The server does not answer, or cannot do it.
        """
        user = access_key(federation, site)
        policy = site_policy(self.bucket, federation, site)
        secret = secrets.token_urlsafe(30)  # 40 characters
        # The policy first: a user without one could do nothing, but never more than it should.
        self._do(lambda: self._admin.policy_add(user, policy=policy))
        self._do(lambda: self._admin.user_add(user, secret))
        self._do(lambda: self._admin.policy_set(user, user=user))
        return user, secret

    def remove_site(self, federation: str, site: str) -> None:
        """Remove the site's user and policy; the objects stay. One that is not there is no error."""
        user = access_key(federation, site)
        self._do(lambda: self._admin.user_remove(user), absent="XMinioAdminNoSuchUser")
        self._do(lambda: self._admin.policy_remove(user), absent="XMinioAdminNoSuchPolicy")

    def users(self) -> dict[str, str]:
        """Every user with the names of its policies, separated by commas; one that is disabled has none."""
        told = json.loads(str(self._do(self._admin.user_list) or "{}"))
        return {
            name: str(entry.get("policyName", "")) if entry.get("status") == "enabled" else ""
            for name, entry in told.items()
        }

    def policies(self) -> dict[str, Any]:
        """Every policy by its name."""
        return dict(json.loads(str(self._do(self._admin.policy_list) or "{}")))

    def _do(self, call: Callable[[], object], absent: str | None = None) -> object:
        try:
            return call()
        except MinioAdminException as error:
            said = str(error)
            if absent is not None and absent in said:
                return None
            if "Status: 403" in said:
                raise AccessDeniedError(f"{self._endpoint}: these keys may not administrate users") from None
            raise ExchangeError(f"{self._endpoint}: {said}") from None
        except (MinioException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if why := why_untrusted(error):
                raise ExchangeError(f"{self._endpoint} is not trusted: {why}") from None
            raise ExchangeError(f"{self._endpoint}: users cannot be administrated: {error}") from None

"""MinIO users and policies: one user per site, limited to literal prefixes of the bucket.

`*` in a policy's resource matches slashes, so it is only used at the end, after a slash: `…/sites/amazon/*`
covers neither `…/sites/amazon-evil/` nor anything outside.
"""

import json
import re
import secrets
from contextlib import suppress
from functools import partial
from typing import Any

from fedllm.config.frozen import NAME
from fedllm.errors import ConfigError
from fedllm.exchange.administration import AbsentError, Administration
from fedllm.protocol.layout import Layout
from fedllm.protocol.messages import COORDINATOR, EVERYONE

# Allow only a PUT signed in its headers, with its own bytes: no form, no copy.
BY_SIGNED_PUT = {
    "StringEquals": {"s3:authType": "REST-HEADER"},
    "Null": {"s3:x-amz-copy-source": "true"},
}
_BUCKET = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"


def access_key(federation: str, site: str) -> str:
    """Return the name of a site's user; it is unique, since names contain no dot.

    Raises:
        ConfigError: A name is invalid or reserved for another party.
    """
    for name in (federation, site):
        if re.fullmatch(NAME, name) is None:
            raise ConfigError(f"{name!r} cannot be a name: use a-z, 0-9 and -, at most 63")
    if site in {COORDINATOR, EVERYONE}:
        raise ConfigError(f"{site!r} is reserved for another party: choose another name for the site")
    return f"{federation}.{site}"


def site_policy(bucket: str, federation: str, site: str) -> dict[str, Any]:
    """Return a site's policy: read and write its own prefix, read the coordinator's prefix and its own inbox.

    The site may not delete, list or listen (a listener sees other sites' keys), and may not administrate
    users, including itself, which MinIO otherwise allows. It writes only by a signed PUT, not by a form or a
    copy. The door forbids what no policy can (`fedllm.stack.door`).

    Raises:
        ConfigError: A name could be read as a pattern.
    """
    access_key(federation, site)
    if re.fullmatch(_BUCKET, bucket) is None:
        raise ConfigError(f"{bucket!r} is not a valid bucket name")
    layout = Layout(federation)
    own, inbox, shared = (
        f"arn:aws:s3:::{bucket}/{prefix}*"
        for prefix in (layout.site_prefix(site), layout.inbox_prefix(site), layout.coordinator_prefix)
    )
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [own, shared, inbox]},
            {"Effect": "Allow", "Action": ["s3:PutObject"], "Resource": [own], "Condition": BY_SIGNED_PUT},
            {"Effect": "Deny", "Action": ["admin:*"]},
        ],
    }


class MinioIam:
    """The users of one bucket's sites. Needs MinIO's root keys, or a user who may administrate others.

    With `ca` (PEM), only certificates of that authority are trusted.
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
        self.bucket = bucket
        self._store = Administration(endpoint, access_key, secret_key, region, ca)
        self._admin = self._store.admin

    def __repr__(self) -> str:
        return f"MinioIam({self._store.endpoint!r}, {self.bucket!r})"

    def add_site(self, federation: str, site: str) -> tuple[str, str]:
        """Create the site's user and policy, and return its access key and a new secret key.

        MinIO does not show a secret again. Another call for the same site replaces the secret, and the former
        one stops working.

        Raises:
            ConfigError: A name is invalid.
            AccessDeniedError: These keys may not administrate users.
            ExchangeError: The server does not answer, or cannot do it.
        """
        user = access_key(federation, site)
        policy = site_policy(self.bucket, federation, site)
        secret = secrets.token_urlsafe(30)  # 40 characters
        # The policy first: without a policy a user can do too little, but never too much.
        self._store.do(lambda: self._admin.policy_add(user, policy=policy))
        self._store.do(lambda: self._admin.user_add(user, secret))
        self._store.do(lambda: self._admin.policy_set(user, user=user))
        return user, secret

    def remove_site(self, federation: str, site: str) -> None:
        """Remove the site's user and policy, if they exist, and keep its objects."""
        user = access_key(federation, site)
        for remove in (self._admin.user_remove, self._admin.policy_remove):
            with suppress(AbsentError):
                self._store.do(partial(remove, user))

    def users(self) -> dict[str, str]:
        """Return the comma-separated policy names of every user; "" for a disabled one."""
        entries = json.loads(str(self._store.do(self._admin.user_list) or "{}"))
        return {
            name: str(entry.get("policyName", "")) if entry.get("status") == "enabled" else ""
            for name, entry in entries.items()
        }

    def policies(self) -> dict[str, Any]:
        """Return every policy by name."""
        return dict(json.loads(str(self._store.do(self._admin.policy_list) or "{}")))

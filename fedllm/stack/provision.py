"""Create the buckets, users and policies of a permanent MinIO: `python -m fedllm.stack.provision`.

A separate job, so that nothing else has the root keys. Running it again changes nothing.

| variable | |
|---|---|
| `FEDLLM_STORE_ENDPOINT` | http[s]://host:port of the store |
| `FEDLLM_CA_FILE` | the CA of its certificate, with https; default: the machine's CAs |
| `MINIO_ROOT_USER`, `MINIO_ROOT_PASSWORD` | the root keys |
| `FEDLLM_COORDINATOR_SECRET`, `FEDLLM_REGISTRAR_SECRET`, `FEDLLM_MLFLOW_SECRET` | secret keys of its users |
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from fedllm.endpoints.store_users import User, users_with
from fedllm.errors import AccessDeniedError, ConfigError, FedllmError
from fedllm.exchange.administration import AbsentError, Administration
from fedllm.exchange.minio_store import minio_client
from fedllm.secure.trust import read_ca
from fedllm.stack.minio import ensure_bucket

REGION = "us-east-1"
SHORTEST = 20  # characters of a secret; MinIO itself takes 8


def users(environment: Mapping[str, str]) -> list[User]:
    """Return the store's users. Raises `ConfigError` if a secret is missing, short, or used twice."""
    names = ("FEDLLM_COORDINATOR_SECRET", "FEDLLM_REGISTRAR_SECRET", "FEDLLM_MLFLOW_SECRET")
    result = users_with(*(_secret(environment, name) for name in names))
    secrets = {*(user.secret for user in result), environment.get("MINIO_ROOT_PASSWORD", "")}
    if len(secrets) <= len(result):
        raise ConfigError("two users of the store have the same secret: generate a new one for each")
    return result


class Provisioner:
    """A store opened with the root keys. Uses bucket calls of S3 and MinIO's calls for users and policies."""

    def __init__(self, endpoint: str, root: tuple[str, str], ca: str | None = None) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._root = root
        self._ca = ca
        self._store = Administration(self.endpoint, *root, REGION, ca)
        self._admin = self._store.admin

    def provide(self, wanted: list[User]) -> list[str]:
        """Create or correct buckets, policies and users, and return the names of all changes.

        Raises:
            AccessDeniedError: the root keys are wrong.
            ExchangeError: the store does not answer, or its certificate is not trusted.
        """
        changed = []
        for bucket in sorted({user.bucket for user in wanted}):
            if not self._bucket_exists(bucket, *self._root):
                ensure_bucket(self.endpoint, bucket, *self._root, ca=self._ca)
                changed.append(f"bucket {bucket}")
        for user in wanted:
            changed += self._user(user)
        return changed

    def _user(self, user: User) -> list[str]:
        changed = []
        policy = self._info(lambda: self._admin.policy_info(user.name))
        # The policy first: without a policy a user can do too little, but never too much.
        if policy is None or _rights(policy) != _rights(user.policy):
            self._store.do(lambda: self._admin.policy_add(user.name, policy=user.policy))
            changed.append(f"policy {user.name}")
        info = self._info(lambda: self._admin.user_info(user.name))
        if info is None or info.get("status") != "enabled" or not self._has_secret(user):
            self._store.do(lambda: self._admin.user_add(user.name, user.secret))
            changed.append(f"user {user.name}")
        if info is None or info.get("policyName") != user.name:
            self._store.do(lambda: self._admin.policy_set(user.name, user=user.name))
            changed.append(f"rights of {user.name}")
        return changed

    def _has_secret(self, user: User) -> bool:
        """Return whether the store accepts the user's secret, by trying it: MinIO does not show secrets."""
        try:
            return self._bucket_exists(user.bucket, user.name, user.secret)
        except AccessDeniedError:
            return False

    def _bucket_exists(self, bucket: str, access_key: str, secret_key: str) -> bool:
        client = minio_client(self.endpoint, REGION, access_key, secret_key, self._store.pool)
        return self._store.do(lambda: client.bucket_exists(bucket))

    def _info(self, call: Callable[[], str]) -> dict[str, Any] | None:
        """Return the store's description of a user or policy; None if it does not exist."""
        try:
            return dict(json.loads(self._store.do(call)))
        except AbsentError:
            return None


def _rights(policy: Mapping[str, Any]) -> list[tuple[str, frozenset[str], frozenset[str]]]:
    """Return a policy's statements in an order that does not depend on the store's."""
    return sorted(
        (
            (str(entry["Effect"]), frozenset(entry["Action"]), frozenset(entry.get("Resource", ())))
            for entry in policy["Statement"]
        ),
        key=lambda right: (right[0], sorted(right[1])),
    )


def _secret(environment: Mapping[str, str], name: str) -> str:
    secret = environment.get(name, "")
    if len(secret) < SHORTEST:
        raise ConfigError(f"{name} is missing or shorter than {SHORTEST} characters")
    return secret


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Run the job, print one JSON object with its changes, and return the exit code."""
    try:
        endpoint, root_user, root_secret = (
            environment.get(name) or _missing(name)
            for name in ("FEDLLM_STORE_ENDPOINT", "MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD")
        )
        ca_file = environment.get("FEDLLM_CA_FILE")
        ca = read_ca(ca_file) if ca_file and endpoint.startswith("https://") else None
        provisioner = Provisioner(endpoint, (root_user, root_secret), ca)
        changed = provisioner.provide(users(environment))
    except FedllmError as error:
        print(f"provision: {error}", file=sys.stderr)  # noqa: T201 - the job's only error output
        return 1
    print(json.dumps({"schema": "fedllm.provision/1", "endpoint": endpoint, "changed": changed}))  # noqa: T201
    return 0


def _missing(name: str) -> str:
    raise ConfigError(f"{name} is not set")


if __name__ == "__main__":
    sys.exit(main())

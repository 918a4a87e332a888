"""Buckets, users and policies of a MinIO that runs for good: `python -m fedllm.stack.provision`.

A job of its own, so that nothing else ever holds the root keys. Run again it changes nothing.

| variable | |
|---|---|
| `FEDLLM_STORE_ENDPOINT` | http[s]://host:port of the store |
| `FEDLLM_CA_FILE` | who vouches for it, with https; without it, those that the machine believes |
| `MINIO_ROOT_USER`, `MINIO_ROOT_PASSWORD` | the root keys |
| `FEDLLM_COORDINATOR_SECRET`, `FEDLLM_REGISTRAR_SECRET`, `FEDLLM_MLFLOW_SECRET` | of the users that it has |
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
    """The users to be. Raises `ConfigError` when a secret is missing, short, or used twice."""
    names = ("FEDLLM_COORDINATOR_SECRET", "FEDLLM_REGISTRAR_SECRET", "FEDLLM_MLFLOW_SECRET")
    found = users_with(*(_secret(environment, name) for name in names))
    secrets = {*(user.secret for user in found), environment.get("MINIO_ROOT_PASSWORD", "")}
    if len(secrets) <= len(found):
        raise ConfigError("two users of the store have the same secret: draw each anew")
    return found


class Provisioner:
    """The store, entered by root. Needs nothing of S3 beyond MinIO's own calls for users and policies."""

    def __init__(self, endpoint: str, root: tuple[str, str], ca: str | None = None) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._root = root
        self._ca = ca
        self._store = Administration(self.endpoint, *root, REGION, ca)
        self._admin = self._store.admin

    def provide(self, wanted: list[User]) -> list[str]:
        """Make what is missing or different; returns what that was.

        Raises:
            AccessDeniedError: the root keys are not the store's.
            ExchangeError: it does not answer, or is not to be trusted.
        """
        changed = []
        for bucket in sorted({user.bucket for user in wanted}):
            if not self._there(bucket, *self._root):
                ensure_bucket(self.endpoint, bucket, *self._root, ca=self._ca)
                changed.append(f"bucket {bucket}")
        for user in wanted:
            changed += self._user(user)
        return changed

    def _user(self, user: User) -> list[str]:
        changed = []
        found = self._told(lambda: self._admin.policy_info(user.name))
        # The policy first: a user without one could do nothing, but never more than it should.
        if found is None or _rights(found) != _rights(user.policy):
            self._store.do(lambda: self._admin.policy_add(user.name, policy=user.policy))
            changed.append(f"policy {user.name}")
        known = self._told(lambda: self._admin.user_info(user.name))
        if known is None or known.get("status") != "enabled" or not self._enters(user):
            self._store.do(lambda: self._admin.user_add(user.name, user.secret))
            changed.append(f"user {user.name}")
        if known is None or known.get("policyName") != user.name:
            self._store.do(lambda: self._admin.policy_set(user.name, user=user.name))
            changed.append(f"rights of {user.name}")
        return changed

    def _enters(self, user: User) -> bool:
        """Whether the user's secret is the one that the store has: MinIO cannot say, so it is tried."""
        try:
            return self._there(user.bucket, user.name, user.secret)
        except AccessDeniedError:
            return False

    def _there(self, bucket: str, access_key: str, secret_key: str) -> bool:
        client = minio_client(self.endpoint, REGION, access_key, secret_key, self._store.pool)
        return self._store.do(lambda: client.bucket_exists(bucket))

    def _told(self, call: Callable[[], str]) -> dict[str, Any] | None:
        """What the store says of a user or policy; None when there is none."""
        try:
            return dict(json.loads(self._store.do(call)))
        except AbsentError:
            return None


def _rights(policy: Mapping[str, Any]) -> list[tuple[str, frozenset[str], frozenset[str]]]:
    """A policy without the order in which the store happens to tell it."""
    return sorted(
        (
            (str(one["Effect"]), frozenset(one["Action"]), frozenset(one.get("Resource", ())))
            for one in policy["Statement"]
        ),
        key=lambda right: (right[0], sorted(right[1])),
    )


def _secret(environment: Mapping[str, str], name: str) -> str:
    found = environment.get(name, "")
    if len(found) < SHORTEST:
        raise ConfigError(f"{name} is missing or shorter than {SHORTEST} characters")
    return found


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Run the job; prints one JSON object with what it changed, and returns the exit code."""
    try:
        endpoint, root_user, root_secret = (
            environment.get(name) or _missing(name)
            for name in ("FEDLLM_STORE_ENDPOINT", "MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD")
        )
        ca = environment.get("FEDLLM_CA_FILE")
        told = read_ca(ca) if ca and endpoint.startswith("https://") else None
        there = Provisioner(endpoint, (root_user, root_secret), told)
        changed = there.provide(users(environment))
    except FedllmError as error:
        print(f"provision: {error}", file=sys.stderr)  # noqa: T201 - the job's only words
        return 1
    print(json.dumps({"schema": "fedllm.provision/1", "endpoint": endpoint, "changed": changed}))  # noqa: T201
    return 0


def _missing(name: str) -> str:
    raise ConfigError(f"{name} is not set")


if __name__ == "__main__":
    sys.exit(main())
